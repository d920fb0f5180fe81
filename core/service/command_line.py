"""Command lines of the service's processes, such as `python -m worker`."""

import argparse
import sys

from core.service.config import Settings, get_settings


def read_settings(command: str, description: str | None, failure: str) -> Settings:
    """Returns the settings of `python -m command`, which takes no arguments. Prints `description` for `--help`, and
    exits with status 2 if there are other arguments. Exits with status 1 and a sentence after `failure`, such as "The
    worker cannot start", if a setting is invalid."""
    argparse.ArgumentParser(f"python -m {command}", description=description).parse_args()
    try:
        return get_settings()
    except ValueError as error:
        sys.exit(f"{failure}: {error}")
