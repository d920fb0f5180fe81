"""A lost device ends the engine and fails every future with DeviceLost; a request's own error ends only that request.

The dying device is a double, because this machine has none.
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from core.artifact.errors import DeviceLost, EngineStopped, NotFound
from core.ml.model import device
from core.ml.model.autoencoder import Autoencoder
from core.ml.serving import batches, runner
from core.ml.serving.engine import Engine
from core.ml.serving.request import Drawn
from tests.core.ml.serving.small import counting, draw, endless, engine_of, raising, request, result

DEATHS = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
]
Patch = Callable[[Engine], tuple[Any, str]]
PLACES: dict[str, Patch] = {
    "forward": lambda engine: (engine.runner.forwards, "_part"),
    "decoding": lambda engine: (engine.runner.pixels, "decode"),
    "folding": lambda engine: (engine.bank, "fold"),
    "activating": lambda engine: (engine.bank, "activate"),
    "classes": lambda engine: (engine.bank, "classes"),
    "forgetting": lambda engine: (engine.bank, "forget"),
    "checking": lambda engine: (engine.runner, "check"),
}


class Deaths:
    """Listener for the engine's death, which records the futures that had failed before."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.futures: list[Future[Any]] = []
        self.failed_before: list[bool] = []

    def __call__(self, error: BaseException) -> None:
        self.errors.append(error)
        self.failed_before += [future.done() for future in self.futures]


@pytest.fixture
def deaths() -> Deaths:
    return Deaths()


@pytest.fixture
def mortal(autoencoder: Autoencoder, deaths: Deaths) -> Generator[Engine, None, None]:
    engine = engine_of(autoencoder, on_death=deaths)
    engine.start()
    yield engine
    engine.stop()


@pytest.mark.parametrize("error", DEATHS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", PLACES)
def test_lost_device_fails_every_future_with_device_lost(
    mortal: Engine, deaths: Deaths, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    started = threading.Event()
    long = draw(mortal, request("long", adapter=None, steps=1000), on_step=lambda *_: started.set())
    training = mortal.train(endless(), lambda _: None)
    started.wait()
    deaths.futures = [long, training.future]

    def lost(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(*PLACES[place](mortal), lost)
    failed = strike(mortal, place)
    for future in (*deaths.futures, *failed):
        assert isinstance(future.exception(60), DeviceLost)
    assert deaths.errors == [error]
    assert deaths.failed_before == [False, False]
    assert_ended(mortal)


def strike(engine: Engine, place: str) -> list["Future[Drawn]"]:
    """Makes the engine call the patched function."""
    if place == "forgetting":
        with pytest.raises(DeviceLost):
            engine.forget(["adapter-0"], timeout=60)
        return []
    if place == "checking":
        with pytest.raises(DeviceLost):
            engine.check(60)
        return []
    return [draw(engine, request("struck", steps=1))]


def assert_ended(engine: Engine) -> None:
    engine._thread.join(60)
    for call in (
        lambda: draw(engine, request("late")),
        lambda: engine.train(endless(), lambda _: None),
        lambda: engine.check(60),
        lambda: engine.cancel("late"),
    ):
        with pytest.raises(DeviceLost):
            call()
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    stopping.join(60)
    assert not stopping.is_alive()


@pytest.mark.parametrize("error", DEATHS, ids=lambda error: type(error).__name__)
def test_training_that_meets_a_lost_device_is_not_blamed(mortal: Engine, deaths: Deaths, error: Exception) -> None:
    other = mortal.train(endless(), lambda _: None)
    training = mortal.train(raising(error), lambda _: None)
    drawn = draw(mortal, request("long", steps=1000))
    for future in (training.future, other.future, drawn):
        assert isinstance(future.exception(60), DeviceLost)
    assert deaths.errors == [error]
    assert_ended(mortal)


def test_error_of_the_loop_itself_ends_the_engine(
    mortal: Engine, deaths: Deaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("defect")

    monkeypatch.setattr(mortal.generations.scheduler, "next_rows", broken)
    assert isinstance(draw(mortal, request("one")).exception(60), DeviceLost)
    assert isinstance(deaths.errors[0], KeyError)
    assert_ended(mortal)


def test_failing_listener_of_the_death_leaves_no_future_waiting(autoencoder: Autoencoder) -> None:
    def listener(_: BaseException) -> None:
        raise ValueError("defect")

    engine = engine_of(autoencoder, on_death=listener)
    engine.start()
    training = engine.train(raising(DEATHS[0]), lambda _: None)
    assert isinstance(training.future.exception(60), DeviceLost)
    assert_ended(engine)


def test_repeated_out_of_memory_ends_the_engine(
    mortal: Engine, deaths: Deaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "MEMORY_PAUSE_SECONDS", 0)
    monkeypatch.setattr(batches, "folded_forward", out_of_memory)
    assert isinstance(draw(mortal, request("one")).exception(60), DeviceLost)
    assert isinstance(deaths.errors[0], DeviceLost)
    assert mortal.stats()["out_of_memory"] == 1 + device.MEMORY_TRIES


@pytest.mark.parametrize("place", ["forward", "decoding", "folding", "classes"])
def test_temporary_out_of_memory_fails_no_request(engine: Engine, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """The images are the same, because a repeated step takes the same noise."""
    monkeypatch.setattr(device, "MEMORY_PAUSE_SECONDS", 0)
    settings: dict[str, Any] = {"adapter": "adapter-1", "eta": 1.0, "guidance_scale": 1.0}
    expected = result(engine, request("expected", **settings)).images
    engine.forget(["adapter-1"])
    holder, name = PLACES[place](engine)
    plain, left = getattr(holder, name), [2]

    def scarce(*arguments: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            out_of_memory()
        return plain(*arguments, **named)

    monkeypatch.setattr(holder, name, scarce)
    images = result(engine, request("scarce", **settings)).images
    assert left == [0]
    assert all(torch.equal(image, other) for image, other in zip(images, expected, strict=True))


def test_repeated_step_takes_the_same_noise(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MEMORY_PAUSE_SECONDS", 0)
    small = request("small", eta=1.0, guidance_scale=1.0)
    expected = result(engine, small).images
    part, calls = engine.runner.forwards._part, []

    def scarce(*arguments: Any) -> Any:
        outcome = part(*arguments)
        calls.append(len(calls))
        if len(calls) % 2:
            out_of_memory()
        return outcome

    monkeypatch.setattr(engine.runner.forwards, "_part", scarce)
    images = result(engine, request("again", eta=1.0, guidance_scale=1.0)).images
    assert len(calls) == 8
    assert all(torch.equal(image, other) for image, other in zip(images, expected, strict=True))


def test_larger_batches_are_tried_again_later(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, left = batches.folded_forward, [1]

    def scarce(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            out_of_memory()
        return forward(*arguments)

    monkeypatch.setattr(batches, "folded_forward", scarce)
    draw(engine, request("one", seeds=tuple(range(8)))).result(60)
    assert engine.runner.forwards.sizes.in_use == (8,)
    draw(engine, request("many", steps=300, adapter=None, guidance_scale=1.0)).result(60)
    assert engine.runner.forwards.sizes.in_use == (8, 16)
    assert engine.stats()["out_of_memory"] == 1


@pytest.mark.parametrize("error", [ValueError("own"), SystemExit(1), StopIteration()], ids=repr)
def test_failing_listener_ends_only_its_own_request(engine: Engine, error: BaseException) -> None:
    def listener(*_: object) -> None:
        raise error

    neighbour = draw(engine, request("neighbour", steps=20))
    steps = draw(engine, request("steps", tenant="a"), on_step=listener)
    training = engine.train(endless(), listener)
    preview = draw(engine, request("preview", tenant="b", previews=2), on_preview=listener)
    assert steps.exception(60) is error
    assert training.future.exception(60) is error
    assert preview.result(60).images, "a failing preview must not fail the request"
    assert neighbour.result(60).images
    assert result(engine, request("after")).images


def test_request_that_breaks_its_step_fails_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests step together; the images of the others equal those of an undisturbed run."""
    expected = result(engine, request("expected", guidance_scale=1.0)).images
    step = engine.runner.step

    def broken(rows: Any) -> None:
        if any(row.request.id == "bad" for row in rows):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        step(rows)

    monkeypatch.setattr(engine.runner, "step", broken)
    good = [draw(engine, request(f"good-{n}", tenant=str(n), guidance_scale=1.0)) for n in range(2)]
    bad = draw(engine, request("bad", tenant="bad", guidance_scale=1.0))
    assert isinstance(bad.exception(60), RuntimeError)
    for future in good:
        assert all(torch.equal(image, other) for image, other in zip(future.result(60).images, expected, strict=True))
    assert engine.stats()["failed_steps"] >= 1


@pytest.mark.parametrize("place", ["training", *sorted(PLACES.keys() - {"checking"})])
def test_unknown_error_on_a_dead_device_ends_the_engine(
    mortal: Engine, deaths: Deaths, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The error's text does not matter."""

    def lost(_: object) -> None:
        raise DeviceLost("no answer")

    monkeypatch.setattr(runner, "check_device", lost)
    for future in strike_with_unknown_error(mortal, monkeypatch, place):
        assert isinstance(future.exception(60), DeviceLost)
    assert [str(error) for error in deaths.errors] == [str(DeviceLost("no answer"))]
    assert_ended(mortal)


@pytest.mark.parametrize("place", ["training", "decoding", "folding", "classes"])
def test_unknown_error_on_a_working_device_ends_only_its_own_work(
    mortal: Engine, deaths: Deaths, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    other = mortal.train(endless(), lambda _: None)
    [future] = strike_with_unknown_error(mortal, monkeypatch, place)
    assert str(future.exception(60)) == "an unknown text"
    mortal.check(60)
    assert not other.future.done()
    assert not deaths.errors


def strike_with_unknown_error(engine: Engine, monkeypatch: pytest.MonkeyPatch, place: str) -> list["Future[Any]"]:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("an unknown text")

    if place == "training":
        return [engine.train(raising(RuntimeError("an unknown text")), lambda _: None).future]
    monkeypatch.setattr(*PLACES[place](engine), broken)
    return strike(engine, place)


def test_each_request_for_a_broken_adapter_gets_its_own_error(engine: Engine) -> None:
    """Raising an exception extends its traceback, so that a shared one would grow on several threads at once."""
    go = threading.Event()

    def broken() -> Any:
        go.wait()
        raise NotFound("object", "adapter-9") from ValueError("why")

    futures = [engine.submit(request(f"waiting-{n}", adapter="adapter-9"), broken) for n in range(2)]
    go.set()
    errors = [future.exception(60) for future in futures]
    errors.append(engine.submit(request("later", adapter="adapter-9"), broken).exception(60))
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, NotFound)
        assert error.detail == "There is no object 'adapter-9'."
    assert errors[-1].__cause__ is None, "a remembered error has no cause, which could hold the file"


def test_requests_that_cannot_be_accepted_fail_alone(engine: Engine) -> None:
    running = draw(engine, request("same", steps=30))
    assert isinstance(draw(engine, request("same")).exception(60), ValueError)
    assert isinstance(draw(engine, request("none", tenant="none", seeds=())).exception(60), ValueError)
    assert running.result(60).images
    engine.stop()
    assert engine.stats()["waiting_images"] == 0


def test_future_cannot_be_cancelled_by_its_holder(engine: Engine) -> None:
    drawn, training = draw(engine, request("one")), engine.train(counting(3), lambda _: None)
    assert not drawn.cancel()
    assert not training.future.cancel()
    assert drawn.result(60).images
    assert training.future.result(60) == "done"


def test_running_engine_responds_to_a_check(engine: Engine) -> None:
    turn = engine.last_turn
    engine.check(60)
    assert engine.last_turn > turn
    assert engine.stats()["turn_age_seconds"] >= 0


def test_hanging_loop_does_not_respond_to_a_check(engine: Engine) -> None:
    begun, go = threading.Event(), threading.Event()
    training = engine.train(waiting(begun, go), lambda _: None)
    begun.wait()
    try:
        with pytest.raises(TimeoutError):
            engine.check(0.01)
    finally:
        go.set()
    assert training.future.result(60) is None
    engine.check(60)


def test_stopped_engine_rejects_a_check(engine: Engine) -> None:
    engine.stop()
    with pytest.raises(EngineStopped) as stopped:
        engine.check(60)
    assert not isinstance(stopped.value, DeviceLost)


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def waiting(begun: threading.Event, go: threading.Event) -> Generator[int, None, None]:
    begun.set()
    go.wait()
    yield 0
