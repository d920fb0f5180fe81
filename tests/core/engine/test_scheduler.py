"""The scheduler: no row is lost, none is stepped twice, the batch never overflows, and tenants share by weight."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.engine.request import ImageRequest, Row
from core.engine.scheduler import Scheduler

requests = st.lists(
    st.builds(
        lambda tenant, images, steps, guided, priority: (tenant, images, steps, guided, priority),
        st.sampled_from("abc"),
        st.integers(1, 4),
        st.integers(1, 6),
        st.booleans(),
        st.integers(-1, 1),
    ),
    min_size=1,
    max_size=12,
)


def request(
    id: str,
    tenant: str = "a",
    images: int = 1,
    steps: int = 3,
    guided: bool = True,
    priority: int = 0,
    weight: float = 1,
) -> ImageRequest:
    return ImageRequest(
        id=id,
        tenant=tenant,
        adapter=None,
        class_id=0,
        seeds=tuple(range(images)),
        steps=steps,
        guidance_scale=4.0 if guided else 1.0,
        priority=priority,
        weight=weight,
    )


def drain(scheduler: Scheduler) -> Counter[tuple[str, int]]:
    """Steps until nothing is left; how often each row stepped."""
    stepped: Counter[tuple[str, int]] = Counter()
    while not scheduler.idle:
        rows = scheduler.next_rows()
        assert rows, "something waits, so something runs"
        assert len(set(rows)) == len(rows)
        assert sum(row.cost for row in rows) <= scheduler.max_rows
        stepped.update((row.request.id, row.index) for row in rows)
        scheduler.advance(rows)
    return stepped


@given(requests, st.integers(2, 9))
def test_every_row_steps_exactly_as_often_as_it_asked(asked: list[tuple[str, int, int, bool, int]], rows: int) -> None:
    scheduler = Scheduler(rows)
    expected: Counter[tuple[str, int]] = Counter()
    for number, (tenant, images, steps, guided, priority) in enumerate(asked):
        scheduler.add(request(str(number), tenant, images, steps, guided, priority))
        expected.update({(str(number), index): steps for index in range(images)})
    assert drain(scheduler) == expected


@given(requests, st.integers(2, 9), st.data())
def test_removed_requests_leave_and_the_others_finish(
    asked: list[tuple[str, int, int, bool, int]], rows: int, data: st.DataObject
) -> None:
    scheduler = Scheduler(rows)
    for number, (tenant, images, steps, guided, priority) in enumerate(asked):
        scheduler.add(request(str(number), tenant, images, steps, guided, priority))
    for _ in range(data.draw(st.integers(0, 5))):
        scheduler.advance(scheduler.next_rows())
    gone = data.draw(st.sets(st.integers(0, len(asked) - 1)))
    for number in gone:
        scheduler.remove(str(number))
    left = {id for id, _ in drain(scheduler)}
    assert not left & {str(number) for number in gone}


def test_a_flood_of_one_tenant_does_not_starve_another() -> None:
    scheduler = Scheduler(max_rows=4)
    for number in range(50):
        scheduler.add(request(f"flood-{number}", "flood", steps=4))
    scheduler.advance(scheduler.next_rows())
    scheduler.add(request("other", "other", steps=4))
    steps = 0
    while any(row.request.id == "other" for row in waiting_and_running(scheduler)):
        scheduler.advance(scheduler.next_rows())
        steps += 1
    assert steps <= 4 + 3, "it waits for a running row to end, at most, and then runs"


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_tenants_share_by_weight(weight: float) -> None:
    scheduler = Scheduler(max_rows=4)
    for number in range(200):
        scheduler.add(request(f"light-{number}", "light", steps=2))
        scheduler.add(request(f"heavy-{number}", "heavy", steps=2, weight=weight))
    given: Counter[str] = Counter()
    for _ in range(160):
        rows = scheduler.next_rows()
        given.update(row.request.tenant for row in rows)
        scheduler.advance(rows)
    assert given["heavy"] / given["light"] == pytest.approx(weight, rel=0.1)


def test_priority_goes_first_within_a_tenant() -> None:
    scheduler = Scheduler(max_rows=2)
    for id, priority in (("low", -1), ("normal", 0), ("high", 1), ("later", 1)):
        scheduler.add(request(id, steps=1, priority=priority))
    order = []
    while not scheduler.idle:
        rows = scheduler.next_rows()
        order += [row.request.id for row in rows]
        scheduler.advance(rows)
    assert order == ["high", "later", "normal", "low"]


def test_a_short_request_passes_a_long_one() -> None:
    scheduler = Scheduler(max_rows=4)
    scheduler.add(request("long", steps=250))
    scheduler.advance(scheduler.next_rows())
    scheduler.add(request("short", "b", steps=5))
    for _ in range(5):
        finished = scheduler.advance(scheduler.next_rows())
    assert [row.request.id for row in finished] == ["short"]


def test_a_batch_too_small_for_guidance_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Scheduler(1)


def waiting_and_running(scheduler: Scheduler) -> list[Row]:
    return [*scheduler.running, *(row for queue in scheduler._waiting.values() for row in queue)]
