"""Images are read on a separate thread, so that a slow store only delays its own fine-tune."""

import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from PIL import Image

from core.artifact.errors import Cancelled, EngineStopped
from core.ml.model.checkpoint import LoadedBase
from core.ml.serving.engine import Engine
from core.ml.tuning.finetune import finetune
from core.ml.tuning.reading import ReadAhead
from core.service.storage.errors import StorageUnavailable
from tests.core.ml.serving.small import engine_of, request, result
from tests.core.ml.tuning.test_finetune import PLAN, base, images, run
from tests.core.ml.tuning.test_trainer import assert_equal_states

__all__ = ["base"]  # a fixture


class Source:
    """Iterator of numbers: each waits for its gate, and closing is recorded."""

    def __init__(self, count: int) -> None:
        self.count, self.taken, self.gates = count, 0, threading.Semaphore(0)
        self.closed = threading.Event()
        self.thread: threading.Thread | None = None

    def read(self) -> Generator[int, None, None]:
        self.thread = threading.current_thread()
        try:
            for number in range(self.count):
                self.gates.acquire()
                self.taken += 1
                yield number
        finally:
            self.closed.set()


def taken_next(items: Iterator[Any]) -> Any:
    """Returns the next item, waiting until it is read."""
    while isinstance(item := next(items), Future):
        item.result(30)
    return item


def test_items_come_in_order_as_soon_as_they_are_ready() -> None:
    source = Source(3)
    items = iter(ReadAhead(source.read()))
    awaited = next(items)
    assert isinstance(awaited, Future)
    assert not awaited.done()
    source.gates.release(3)
    awaited.result(30)
    assert [taken_next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration):
        taken_next(items)
    assert source.thread is not threading.current_thread()


def test_read_ahead_is_limited() -> None:
    source = Source(100)
    source.gates.release(100)
    reading = ReadAhead(source.read(), 3)
    items = iter(reading)
    for number in range(5):
        assert taken_next(items) == number
        assert source.taken <= number + 1 + 3 + 1, "the waiting ones, and the one being read"
    assert source.thread is not None
    assert source.thread.is_alive()
    reading.close()
    source.thread.join(30)
    assert source.closed.is_set()
    assert source.taken <= 9


def test_error_of_the_source_is_raised_after_its_items() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise StorageUnavailable("it is slow")

    items = iter(ReadAhead(failing()))
    assert taken_next(items) == 1
    with pytest.raises(StorageUnavailable):
        taken_next(items)


def test_reading_ahead_does_not_change_the_adapter(base: LoadedBase) -> None:
    _, expected = run(base)
    events: list[Any] = []
    engine = engine_of(base.autoencoder)
    engine.start()
    training = engine.train(finetune(base, PLAN, images(), read_ahead=True), events.append)
    outcome = training.future.result(120)
    engine.stop()
    assert_equal_states(outcome.tensors, expected.tensors)
    assert outcome.losses == expected.losses
    assert not [event for event in events if isinstance(event, Future)]


class SlowStore:
    """Store whose images arrive only after `recovered` is set."""

    def __init__(self) -> None:
        self.requested, self.recovered, self.closed = threading.Event(), threading.Event(), threading.Event()

    def images(self) -> Iterator[tuple[int, Image.Image]]:
        self.requested.set()
        self.recovered.wait(120)
        try:
            yield from images()
        finally:
            self.closed.set()


@pytest.fixture
def engine(base: LoadedBase) -> Iterator[Engine]:
    engine = engine_of(base.autoencoder)
    engine.start()
    yield engine
    engine.stop()


def test_slow_store_delays_only_its_own_finetune(base: LoadedBase, engine: Engine) -> None:
    store = SlowStore()
    slow = engine.train(finetune(base, PLAN, store.images(), read_ahead=True), lambda _: None)
    assert store.requested.wait(30)
    other = engine.train(finetune(base, PLAN, images(), read_ahead=True), lambda _: None)
    assert result(engine, request("one")).images
    assert other.future.result(120)
    assert not slow.future.done()
    store.recovered.set()
    assert_equal_states(slow.future.result(120).tensors, other.future.result().tensors)


def test_engine_is_idle_while_a_finetune_waits_for_images(
    base: LoadedBase, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, turns = SlowStore(), list[float]()
    slow = engine.train(finetune(base, PLAN, store.images(), read_ahead=True), lambda _: None)
    assert store.requested.wait(30)
    turn = engine._turn
    monkeypatch.setattr(engine, "_turn", lambda: (turns.append(time.monotonic()), turn()))
    time.sleep(0.5)
    assert len(turns) <= 5, "the loop turns once a second"
    store.recovered.set()
    slow.future.result(120)


def test_finetune_that_waits_for_images_can_be_cancelled(base: LoadedBase, engine: Engine) -> None:
    store = SlowStore()
    slow = engine.train(finetune(base, PLAN, store.images(), read_ahead=True), lambda _: None)
    assert store.requested.wait(30)
    slow.cancelled.set()
    with pytest.raises(Cancelled):
        slow.future.result(30)
    store.recovered.set()
    assert store.closed.wait(30), "the thread must end after its current read"


def test_engine_stops_while_a_finetune_waits_for_images(base: LoadedBase) -> None:
    store, engine = SlowStore(), engine_of(base.autoencoder)
    engine.start()
    slow = engine.train(finetune(base, PLAN, store.images(), read_ahead=True), lambda _: None)
    assert store.requested.wait(30)
    engine.stop()
    assert isinstance(slow.future.exception(30), EngineStopped)
    store.recovered.set()
    assert store.closed.wait(30)


def test_failing_store_ends_the_finetune_with_its_error(base: LoadedBase, engine: Engine) -> None:
    def broken() -> Iterator[tuple[int, Image.Image]]:
        yield next(images())
        raise StorageUnavailable("it breaks off")

    training = engine.train(finetune(base, PLAN, broken(), read_ahead=True), lambda _: None)
    assert isinstance(training.future.exception(60), StorageUnavailable)
