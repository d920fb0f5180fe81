"""Slots are divided so that any number of slow tenants leaves some free."""

from core.service.webhooks.places import Places
from core.service.webhooks.reachability import Reachability


def taken(places: Places, tenant: str) -> int:
    """Takes as many slots as the tenant gets."""
    count = 0
    while places.take(tenant):
        count += 1
    return count


def test_slow_tenants_leave_a_slot_for_another() -> None:
    places = Places(8)
    assert [taken(places, f"slow {number}") for number in range(4)] == [3, 2, 1, 1]
    assert places.full() == {f"slow {number}" for number in range(4)}
    assert places.take("quiet")
    assert not places.take("late"), "no slot may be free"


def test_released_slot_serves_its_tenant_again() -> None:
    places = Places(2)
    assert taken(places, "one") == 1
    places.give_back("one")
    assert places.full() == set()
    assert places.take("one")


def test_single_slot_serves_tenants_in_turn() -> None:
    places = Places(1)
    assert taken(places, "one") == 1
    assert not places.take("two")
    places.give_back("one")
    assert places.take("two")


def test_failures_are_our_own_while_most_tenants_get_no_response() -> None:
    seen = Reachability()
    seen.note("two", "connection_failed")
    assert not seen.is_ours("one", "timed_out"), "a single other tenant proves nothing"
    seen.note("three", "connection_failed")
    assert seen.is_ours("one", "host_unknown")
    assert not seen.is_ours("one", "refused"), "a receiver that responds was reached"
    assert not seen.is_ours("one", None)
    seen.note("two", "refused")
    assert not seen.is_ours("one", "timed_out"), "half of the others were reached"


def test_one_tenant_with_many_failures_proves_nothing() -> None:
    seen = Reachability()
    seen.note("healthy", None)
    for _ in range(20):
        seen.note("dead", "timed_out")
    assert not seen.is_ours("another", "timed_out")
