"""`python -m core.service.storage`: makes the bucket or folder of DIFFFIT_STORAGE_URL when it is not there."""

from core.service.config import get_settings
from core.service.storage import S3Store, open_store


def main() -> None:
    store = open_store(get_settings())
    if isinstance(store, S3Store):
        store.create_bucket()
    store.check()
    print("The object store can be used.")


if __name__ == "__main__":
    main()
