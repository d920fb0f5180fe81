"""`python -m core.service.storage`: creates the bucket or folder of DIFFFIT_STORAGE_URL unless it exists, and checks
that the service can use it."""

import sys

from core.artifact.errors import CoreError
from core.service.command_line import read_settings
from core.service.storage import S3Store, open_store


def main() -> None:
    settings = read_settings("core.service.storage", __doc__, "The object store cannot be used")
    try:
        store = open_store(settings)
        if isinstance(store, S3Store):
            store.create_bucket()
        store.check()
    except CoreError as error:
        sys.exit(f"The object store cannot be used: {error.detail}")
    print("The object store can be used.")


if __name__ == "__main__":
    main()
