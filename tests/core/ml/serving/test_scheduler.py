"""The scheduler: every batch row gets exactly its steps, the batch never overflows, and tenants share by weight."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.artifact.sampling import SamplingSettings
from core.ml.serving.request import ImageRequest
from core.ml.serving.scheduler import Scheduler

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
    interval: tuple[int, int] = (0, 999),
) -> ImageRequest:
    return ImageRequest(
        id=id,
        tenant=tenant,
        adapter=None,
        class_id=0,
        seeds=tuple(range(images)),
        sampling=SamplingSettings(steps=steps, guidance_scale=4.0 if guided else 1.0, guidance_interval=interval),
        priority=priority,
        weight=weight,
    )


def drain(scheduler: Scheduler) -> Counter[tuple[str, int]]:
    """Steps until the scheduler is idle, and returns the number of steps of each batch row."""
    stepped: Counter[tuple[str, int]] = Counter()
    while not scheduler.idle:
        rows = scheduler.next_rows()
        assert rows, "some batch row must run while any waits"
        assert len(set(rows)) == len(rows)
        assert sum(row.cost for row in rows) <= scheduler.max_rows
        stepped.update((row.request.id, row.index) for row in rows)
        scheduler.advance(rows)
    return stepped


@given(requests, st.integers(2, 9))
def test_every_batch_row_gets_exactly_its_steps(wanted: list[tuple[str, int, int, bool, int]], rows: int) -> None:
    scheduler = Scheduler(rows)
    expected: Counter[tuple[str, int]] = Counter()
    for number, (tenant, images, steps, guided, priority) in enumerate(wanted):
        scheduler.add(request(str(number), tenant, images, steps, guided, priority))
        expected.update({(str(number), index): steps for index in range(images)})
    assert drain(scheduler) == expected


@given(requests, st.integers(2, 9), st.data())
def test_removed_requests_leave_and_the_others_finish(
    wanted: list[tuple[str, int, int, bool, int]], rows: int, data: st.DataObject
) -> None:
    scheduler = Scheduler(rows)
    all_requests = [request(str(number), *values) for number, values in enumerate(wanted)]
    for added in all_requests:
        scheduler.add(added)
    for _ in range(data.draw(st.integers(0, 5))):
        scheduler.advance(scheduler.next_rows())
    rows_before = rows_in(scheduler)
    cancelled = data.draw(st.sets(st.sampled_from(all_requests)))
    removed = [row for request in cancelled for row in scheduler.remove(request)]
    assert rows_in(scheduler) == rows_before - len(removed)
    assert not {id for id, _ in drain(scheduler)} & {request.id for request in cancelled}


def rows_in(scheduler: Scheduler) -> int:
    return sum(map(len, scheduler._queues.values()))


weights = st.sampled_from([0.5, 1.0, 2.0, 5.0])


@given(
    st.lists(st.tuples(weights, st.integers(1, 30)), min_size=2, max_size=5),
    st.booleans(),
    st.integers(1, 6),
    st.sampled_from([0.0, 16.0]),
)
def test_service_of_backlogged_tenants_differs_by_a_bounded_amount(
    tenants: list[tuple[float, int]], guided: bool, places: int, quantum: float
) -> None:
    """Bounds the difference in model evaluations over weight between any two tenants that always have work, at every
    step. All batch rows have the same cost, so that each tenant can use every place."""
    max_rows = 2 * places
    scheduler = Scheduler(max_rows, quantum)
    for number, (weight, steps) in enumerate(tenants):
        for image in range(200):
            scheduler.add(request(f"{number}-{image}", str(number), 1, steps, guided, weight=weight))
    evaluations: Counter[int] = Counter()
    for _ in range(40):
        rows = scheduler.next_rows()
        for row in rows:
            evaluations[int(row.request.tenant)] += row.cost
        scheduler.advance(rows)
        if any(not scheduler._queues.get(str(number)) for number in range(len(tenants))):
            return
        shares = [evaluations[number] / tenants[number][0] for number in range(len(tenants))]
        assert max(shares) - min(shares) <= quantum + max_rows / min(weight for weight, _ in tenants) + 1e-9


def steps_until_gone(scheduler: Scheduler, tenant: str) -> int:
    steps = 0
    while tenant in scheduler._queues:
        scheduler.advance(scheduler.next_rows())
        steps += 1
    return steps


def test_other_tenant_starts_within_a_few_steps_of_a_flood() -> None:
    scheduler = Scheduler(max_rows=4, quantum=16)
    for number in range(50):
        scheduler.add(request(f"flood-{number}", "flood", steps=100))
    scheduler.advance(scheduler.next_rows())
    scheduler.add(request("other", "other", steps=4))
    assert steps_until_gone(scheduler, "other") <= 4 + 16 / 4, "its own steps, and the flood's lead"


@pytest.mark.parametrize("max_rows", [8, 32])
def test_newcomer_waits_at_most_four_full_steps_for_any_batch_size(max_rows: int) -> None:
    scheduler = Scheduler(max_rows)
    for number in range(50):
        scheduler.add(request(f"flood-{number}", "flood", steps=1000))
    for _ in range(3):
        scheduler.advance(scheduler.next_rows())
    scheduler.add(request("other", "other", steps=10))
    assert steps_until_gone(scheduler, "other") <= 4 + 10


def test_equal_tenants_finish_one_after_another() -> None:
    """If they took turns at every step, all of them would finish only at the end."""
    scheduler = Scheduler(max_rows=2, quantum=40)
    for number in range(4):
        scheduler.add(request(str(number), str(number), steps=20))
    ends = [step for step in range(80) if scheduler.advance(scheduler.next_rows())]
    assert ends == [19, 39, 59, 79]


def test_returning_tenant_keeps_its_debt() -> None:
    """A tenant that leaves for a moment does not return as an equal of tenants that waited all the time."""
    scheduler = Scheduler(max_rows=2, quantum=0)
    scheduler.add(request("long", "a", steps=100))
    scheduler.add(request("first", "b", steps=10, weight=0.1))
    while "b" in scheduler._queues:
        scheduler.advance(scheduler.next_rows())
    scheduler.add(request("second", "b", steps=1, weight=0.1))
    waited = 0
    while not any(row.request.tenant == "b" for row in scheduler.next_rows()):
        waited += 1
    assert waited >= 5


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_tenants_share_by_weight(weight: float) -> None:
    scheduler = Scheduler(max_rows=4)
    for number in range(1000):
        scheduler.add(request(f"light-{number}", "light", steps=2))
        scheduler.add(request(f"heavy-{number}", "heavy", steps=2, weight=weight))
    stepped: Counter[str] = Counter()
    for _ in range(800):
        rows = scheduler.next_rows()
        stepped.update(row.request.tenant for row in rows)
        scheduler.advance(rows)
    assert stepped["heavy"] / stepped["light"] == pytest.approx(weight, rel=0.1)


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


def test_short_request_overtakes_a_long_one() -> None:
    scheduler = Scheduler(max_rows=4)
    scheduler.add(request("long", steps=250))
    scheduler.advance(scheduler.next_rows())
    scheduler.add(request("short", "b", steps=5))
    for _ in range(5):
        finished = scheduler.advance(scheduler.next_rows())
    assert [row.request.id for row in finished] == ["short"]


def test_batch_row_outside_the_guidance_interval_costs_half() -> None:
    scheduler = Scheduler(max_rows=2)
    scheduler.add(request("one", steps=10, interval=(300, 600)))
    costs = []
    while not scheduler.idle:
        rows = scheduler.next_rows()
        costs.append((rows[0].timestep, rows[0].cost))
        scheduler.advance(rows)
    assert [timestep for timestep, cost in costs if cost == 2] == [599, 499, 399]


def test_batch_may_shrink_between_steps() -> None:
    scheduler = Scheduler(max_rows=8)
    for number in range(6):
        scheduler.add(request(str(number), steps=3))
    scheduler.advance(scheduler.next_rows())
    scheduler.max_rows = 2
    assert len(scheduler.next_rows()) == 1


def test_larger_images_cost_their_area_and_step_alone_if_necessary() -> None:
    scheduler = Scheduler(max_rows=8)
    scheduler.add(replace(request("small", steps=2), scale=1))
    scheduler.add(replace(request("twice", steps=1), tenant="twice", scale=2))
    scheduler.add(replace(request("huge", steps=1), tenant="huge", scale=4))
    seen = []
    while not scheduler.idle:
        rows = scheduler.next_rows()
        seen.append({row.request.id: row.cost for row in rows})
        scheduler.advance(rows)
    assert {id: cost for step in seen for id, cost in step.items()} == {"small": 2, "twice": 8, "huge": 32}
    assert all(len(step) == 1 or sum(step.values()) <= 8 for step in seen)


def test_batch_too_small_for_guidance_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Scheduler(1)
