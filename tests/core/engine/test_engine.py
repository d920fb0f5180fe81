"""The engine on a small random base: mixed batches, hot swaps, training beside serving, and everything that ends."""

import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from core.diffusion.sampling import sample, seeded_noise
from core.engine.engine import Engine
from core.engine.request import ImageRequest
from core.engine.runner import Runner
from core.errors import Cancelled, EngineStopped, QueueFull, UnknownAdapter
from core.model.adapter import TensorAdapter
from core.model.autoencoder import Autoencoder
from core.model.bank import AdapterBank
from tests.core.model.small import CONFIG, autoencoder_folder, random_dit, random_tensors

SLOTS = 3


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    return Autoencoder.load(autoencoder_folder(tmp_path_factory.mktemp("vae")))


@pytest.fixture
def engine(autoencoder: Autoencoder) -> Iterator[Engine]:
    dit = random_dit()
    bank = AdapterBank(dit, SLOTS, host_bytes=2**30)
    engine = Engine(Runner(dit, autoencoder, bank), bank, max_rows=16, max_waiting=60, training_share=0.2)
    engine.start()
    for seed in range(2 * SLOTS):
        engine.add_adapter(f"adapter-{seed}", tensors(seed))
    yield engine
    engine.stop()


def tensors(seed: int) -> dict[str, Tensor]:
    return random_tensors(random_dit(), "paper", seed=seed)


def request(id: str, **changes: Any) -> ImageRequest:
    fields: dict[str, Any] = {
        "tenant": "tenant",
        "adapter": "adapter-0",
        "class_id": 1,
        "seeds": (5, 6),
        "steps": 4,
        "guidance_scale": 3.0,
    }
    return ImageRequest(id=id, **{**fields, **changes})


def test_an_image_equals_a_plain_sampling_run(engine: Engine) -> None:
    (drawn, _) = engine.submit(request("one")).result().images
    dit, adapter = engine.runner.dit, TensorAdapter(tensors(0))
    shape = (CONFIG.in_channels, CONFIG.input_size, CONFIG.input_size)
    latents = sample(
        lambda x, t, y: dit(x, t, y, adapter),
        seeded_noise([5], shape),
        torch.tensor([1]),
        null_class=3,
        steps=4,
        guidance_scale=3.0,
        channels=CONFIG.guidance_channels,
    )
    assert (drawn.int() - engine.runner.decode(latents[0]).int()).abs().max() <= 1


def test_images_do_not_depend_on_their_neighbours(engine: Engine) -> None:
    alone = engine.submit(request("alone")).result().images
    crowd = [
        engine.submit(
            request(
                f"crowd-{number}",
                tenant=f"tenant-{number % 3}",
                adapter=f"adapter-{number % (2 * SLOTS)}",
                steps=2 + number % 5,
                guidance_scale=(1.0, 2.0, 5.0)[number % 3],
                seeds=(number,),
            )
        )
        for number in range(14)
    ]
    together = engine.submit(request("together")).result().images
    assert all(future.result().images for future in crowd)
    assert all(torch.equal(first, second) for first, second in zip(alone, together, strict=True))


def test_adapters_differ_and_the_base_draws_too(engine: Engine) -> None:
    images = [
        engine.submit(request(str(name), adapter=name)).result().images[0] for name in (None, "adapter-0", "adapter-1")
    ]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])


def test_guidance_of_one_costs_half(engine: Engine) -> None:
    assert engine.submit(request("guided")).result().row_steps == 2 * 2 * 4
    assert engine.submit(request("plain", guidance_scale=1.0)).result().row_steps == 2 * 4


def test_more_adapters_than_slots_are_all_served(engine: Engine) -> None:
    futures = [engine.submit(request(str(n), adapter=f"adapter-{n % 6}", seeds=(n,))) for n in range(18)]
    assert all(len(future.result(60).images) == 1 for future in futures)
    assert len(engine.bank.resident) == SLOTS


def test_progress_reaches_one(engine: Engine) -> None:
    told: list[float] = []
    engine.submit(request("told"), told.append).result()
    assert told == sorted(told)
    assert (len(told), told[-1]) == (8, 1.0)


def test_an_unknown_adapter_fails_its_own_request_only(engine: Engine) -> None:
    good = engine.submit(request("good"))
    assert isinstance(engine.submit(request("bad", adapter="nobody's")).exception(), UnknownAdapter)
    assert isinstance(engine.submit(request("class", class_id=99)).exception(), IndexError)
    assert len(good.result().images) == 2
    assert engine.submit(request("after")).result().images


def test_cancel_ends_a_request_and_frees_its_slot(engine: Engine) -> None:
    stepped = threading.Event()
    future = engine.submit(request("long", steps=1000), lambda _: stepped.set())
    stepped.wait()
    engine.cancel("long")
    assert isinstance(future.exception(), Cancelled)
    assert engine.submit(request("next")).result().images
    assert engine.bank._pins == {}


def test_a_full_queue_says_so(engine: Engine) -> None:
    futures = [engine.submit(request(str(n), seeds=tuple(range(20)), steps=200)) for n in range(5)]
    assert isinstance(futures[-1].exception(10), QueueFull)
    for number in range(5):
        engine.cancel(str(number))


def test_stopping_fails_what_is_unfinished(engine: Engine) -> None:
    futures = [engine.submit(request(str(n), steps=1000)) for n in range(3)]
    training = engine.train(endless(), lambda _: None)
    engine.stop()
    assert all(isinstance(future.exception(), EngineStopped) for future in [*futures, training.future])
    with pytest.raises(EngineStopped):
        engine.submit(request("late"))


def test_training_runs_beside_serving(engine: Engine) -> None:
    events: list[int] = []
    serving = [engine.submit(request(str(n), steps=40, seeds=(n,))) for n in range(4)]
    training = engine.train(counting(10), events.append)
    assert training.future.result() == "done"
    assert events == list(range(10))
    assert all(future.result().images for future in serving)


def test_a_failing_training_leaves_serving_alone(engine: Engine) -> None:
    training = engine.train(failing(), lambda _: None)
    assert isinstance(training.future.exception(), ZeroDivisionError)
    assert engine.submit(request("after")).result().images


def test_a_cancelled_training_stops(engine: Engine) -> None:
    training = engine.train(endless(), lambda _: training.cancelled.set())
    assert isinstance(training.future.exception(), Cancelled)


def counting(end: int) -> Generator[int, None, str]:
    yield from range(end)
    return "done"


def endless() -> Generator[int, None, None]:
    while True:
        yield 0


def failing() -> Generator[int, None, None]:
    yield 0
    raise ZeroDivisionError
