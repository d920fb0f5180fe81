"""`python -m core.storage`: makes the bucket or folder of DIFFFIT_STORAGE_URL when it is not there."""

from core.config import get_settings
from core.storage import S3Store, open_store


def main() -> None:
    store = open_store(get_settings())
    if isinstance(store, S3Store):
        store.create_bucket()
    store.check()
    print("The object store can be used.")


if __name__ == "__main__":
    main()
