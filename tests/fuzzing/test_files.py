"""Files and zips that were broken on purpose: what validates, trains."""

from tests.fuzzing.files import try_mutants


def test_mutants_that_validate_train_and_draw_their_example() -> None:
    tried = try_mutants(1_000_000, 400)
    assert (tried.mutants, tried.broken, tried.lost) == (400, [], [])
    assert tried.validated > 40
    assert len(tried.codes) > 8, "the mutants reach many refusals"
