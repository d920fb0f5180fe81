"""`python -m core.service.storage`: creates the bucket or folder of DIFFFIT_STORAGE_URL unless it exists, and checks
that the service can use it."""

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
