"""Seeds of generated images."""

import secrets

MAX_SEED = 2**53
"""Seeds are below this number, so that every JSON parser reads them exactly."""


def random_seed() -> int:
    """Returns a random seed with at most ten digits, short enough to copy by hand."""
    return secrets.randbelow(2**32)
