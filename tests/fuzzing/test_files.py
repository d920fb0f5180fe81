"""Mutated files and zips: all accepted ones must train."""

from tests.fuzzing.files import try_mutants


def test_accepted_mutants_can_be_trained_on_and_shown() -> None:
    tried = try_mutants(1_000_000, 400)
    assert (tried.mutants, tried.broken, tried.lost) == (400, [], [])
    assert tried.validated > 40
    assert len(tried.codes) > 8, "the mutants must be rejected for many reasons"
