"""The engine on a small random base: mixed batches, changing adapters, training during serving, and all endings."""

import gc
import threading
import time
import weakref
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from core.artifact.errors import ArtifactInvalid, Cancelled, EngineStopped, QueueFull
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import CLASS_TABLE, GUIDED
from core.ml.diffusion.sampling import sample, seeded_noise
from core.ml.errors import DeadlineExceeded, DrawingDiverged
from core.ml.model.adapter import TensorAdapter
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.bank import FoldedAdapter
from core.ml.model.dit import DiT
from core.ml.model.folding import fold, folded_forward
from core.ml.serving import batches
from core.ml.serving.engine import Engine
from core.ml.serving.tickets import Ticket
from tests.core.ml.model.small import CONFIG
from tests.core.ml.serving.small import counting, draw, endless, engine_of, raising, request, result, tensors


def test_image_equals_a_plain_sampling_run(engine: Engine) -> None:
    (drawn, _) = draw(engine, request("one")).result().images
    dit, adapter = engine.bank.dit, TensorAdapter(tensors(0))
    shape = (CONFIG.in_channels, CONFIG.input_size, CONFIG.input_size)
    latents = sample(
        lambda x, t, y: dit(x, t, y, adapter),
        seeded_noise([5], shape),
        torch.tensor([1]),
        3,
        SamplingSettings(steps=4, guidance_scale=3.0),
        channels=CONFIG.guidance_channels,
    )
    assert (drawn.int() - engine.runner.decode([latents[0]])[0].int()).abs().max() <= 1


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_image_guided_by_a_weaker_adapter_equals_a_plain_sampling_run(engine: Engine, scale: float) -> None:
    dit = engine.bank.dit
    adapter, vectors = TensorAdapter(tensors(0)), torch.lerp(fold(dit, {}), fold(dit, tensors(0)), scale)
    null = torch.lerp(dit.y_embedder.embedding_table.weight[-1], tensors(0)[CLASS_TABLE][-1], scale)

    def both(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        own = dit(x[:1], t[:1], y[:1], adapter)
        return torch.cat([own, folded_forward(dit, x[1:], t[1:], null[None], vectors[None])])

    settings = SamplingSettings(steps=4, guidance_scale=3.0)
    shape = (CONFIG.in_channels, CONFIG.input_size, CONFIG.input_size)
    latents = sample(both, seeded_noise([5], shape), torch.tensor([1]), 3, settings, channels=CONFIG.guidance_channels)
    expected = engine.runner.decode([latents[0]])[0]
    (image, _) = draw(engine, request("weaker", guidance_adapter_scale=scale)).result().images
    (unlike, _) = draw(engine, request("itself")).result().images
    assert (image.int() - expected.int()).abs().max() <= 1
    assert not torch.equal(image, unlike)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_learned_guidance_takes_one_evaluation_a_step_beside_other_guidance(engine: Engine, scale: float) -> None:
    """The guidance scale 3 is half-way from 1, the adapter, to 5, its second set of tensors."""
    dit, own, guided = engine.bank.dit, tensors(0), tensors(1)
    adapter = own | {GUIDED + name: tensor for name, tensor in guided.items()}
    vectors = torch.lerp(fold(dit, {}), (fold(dit, own) + fold(dit, guided)) / 2, scale)
    null = dit.y_embedder.embedding_table.weight[-1]
    row = torch.lerp(null, (own[CLASS_TABLE][1] + guided[CLASS_TABLE][1]) / 2, scale)[None]
    latents = sample(
        lambda x, t, y: folded_forward(dit, x, t, row.expand(len(x), -1), vectors.expand(len(x), -1)),
        seeded_noise([5], (CONFIG.in_channels, CONFIG.input_size, CONFIG.input_size)),
        torch.tensor([1]),
        3,
        SamplingSettings(steps=4, guidance_scale=1.0),
        channels=CONFIG.guidance_channels,
    )
    learned = request("learned", adapter="learned", learned_guidance=5.0, adapter_scale=scale, seeds=(5,))
    future, other = engine.submit(learned, lambda: adapter), draw(engine, request("other"))
    drawn = future.result(60)
    assert drawn.model_evaluations == 4
    assert (drawn.images[0].int() - engine.runner.decode([latents[0]])[0].int()).abs().max() <= 1
    assert other.result(60).model_evaluations == 2 * 4 * 2


def test_ends_of_learned_guidance_are_the_two_sets_of_tensors(engine: Engine) -> None:
    sets = [tensors(0), tensors(1)]
    adapter = sets[0] | {GUIDED + name: tensor for name, tensor in sets[1].items()}
    for each, guidance_scale in zip(sets, (1.0, 5.0), strict=True):
        learned = request("a", adapter="learned", learned_guidance=5.0, guidance_scale=guidance_scale)
        plain = request("b", adapter=f"set {guidance_scale}", guidance_scale=1.0)
        both = [engine.submit(learned, lambda: adapter), engine.submit(plain, lambda each=each: each)]
        images, expected = (future.result(60).images for future in both)
        assert all(torch.equal(first, second) for first, second in zip(images, expected, strict=True))


def test_base_is_guided_by_itself_at_every_adapter_scale(engine: Engine) -> None:
    images = [
        result(engine, request(f"{scale}", adapter=None, guidance_adapter_scale=scale)).images[0]
        for scale in (0.0, 0.5, 1.0)
    ]
    assert all(torch.equal(image, images[-1]) for image in images)


@pytest.mark.parametrize("settings", [{}, {"sampler": "ddpm", "guidance_adapter_scale": 0.5}])
def test_adapter_scale_of_zero_is_the_base_and_of_one_the_adapter(engine: Engine, settings: dict[str, Any]) -> None:
    nothing = result(engine, request("nothing", adapter_scale=0.0, base_class=2, **settings)).images
    base = result(engine, request("base", adapter=None, class_id=2, **settings)).images
    whole = result(engine, request("whole", adapter_scale=1.0, base_class=2, **settings)).images
    adapter = result(engine, request("adapter", **settings)).images
    assert all(torch.equal(first, second) for first, second in zip(nothing, base, strict=True))
    assert all(torch.equal(first, second) for first, second in zip(whole, adapter, strict=True))
    assert not torch.equal(base[0], adapter[0])


@pytest.mark.parametrize(("scale", "weaker"), [(0.5, 1.0), (1.5, 1.0), (0.5, 0.5)])
def test_image_of_a_scaled_adapter_equals_a_plain_sampling_run(engine: Engine, scale: float, weaker: float) -> None:
    dit = engine.bank.dit
    adapter, base = tensors(0)[CLASS_TABLE], dit.y_embedder.embedding_table.weight
    vectors = [torch.lerp(fold(dit, {}), fold(dit, tensors(0)), at) for at in (scale, scale * weaker)]
    classes = [torch.lerp(base[2], adapter[1], scale), torch.lerp(base[-1], adapter[-1], scale * weaker)]

    def both(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return folded_forward(dit, x, t, torch.stack(classes), torch.stack(vectors))

    settings = SamplingSettings(steps=4, guidance_scale=3.0)
    shape = (CONFIG.in_channels, CONFIG.input_size, CONFIG.input_size)
    latents = sample(both, seeded_noise([5], shape), torch.tensor([1]), 3, settings, channels=CONFIG.guidance_channels)
    expected = engine.runner.decode([latents[0]])[0]
    scaled = request("scaled", adapter_scale=scale, guidance_adapter_scale=weaker, base_class=2)
    (image, _) = draw(engine, scaled).result().images
    assert (image.int() - expected.int()).abs().max() <= 1


def test_images_do_not_depend_on_their_neighbours(engine: Engine) -> None:
    """Mixes tenants, adapters, samplers, step counts, guidance scales, intervals and seeds at different timesteps."""
    samplers: list[dict[str, Any]] = [{}, {"eta": 0.7}, {"sampler": "ddpm"}, {"sampler": "dpmpp_2m"}]
    samplers += [settings | {"timestep_spacing": "dit", "guidance_adapter_scale": 0.5} for settings in samplers[1:]]
    samplers += [{"adapter_scale": 0.5}, {"adapter_scale": 1.5, "guidance_adapter_scale": 0.5, "sampler": "ddpm"}]
    for number, settings in enumerate(samplers):
        alone = result(engine, request(f"alone-{number}", **settings)).images
        crowd = [
            draw(
                engine,
                request(
                    f"crowd-{number}-{other}",
                    tenant=f"tenant-{other % 3}",
                    adapter=f"adapter-{other % 6}",
                    steps=2 + other % 5,
                    guidance_scale=(1.0, 2.0, 5.0)[other % 3],
                    guidance_interval=((0, 999), (200, 800))[other % 2],
                    seeds=(other,),
                    **samplers[other % len(samplers)],
                ),
            )
            for other in range(14)
        ]
        together = result(engine, request(f"together-{number}", **settings)).images
        assert all(future.result(60).images for future in crowd)
        assert all(torch.equal(first, second) for first, second in zip(alone, together, strict=True))


def test_images_of_two_sizes_are_generated_side_by_side(engine: Engine) -> None:
    """An image of twice the size also equals a plain run, and is bit-identical alone and among others."""
    large = request("large", scale=2)
    alone = result(engine, large)
    crowd = [draw(engine, request(f"{n}", adapter=f"adapter-{n}", scale=1 + n % 3 // 2, seeds=(n,))) for n in range(9)]
    together = result(engine, replace(large, id="together")).images
    small = next(iter(crowd[0].result(60).images))
    assert all(future.result(60).images for future in crowd)
    assert alone.images[0].shape == (2 * small.shape[0], 2 * small.shape[1], 3)
    assert all(torch.equal(first, second) for first, second in zip(alone.images, together, strict=True))
    assert alone.model_evaluations == 2 * 4 * 2 * 4  # images, steps, guided, times the area
    dit, adapter, size = engine.bank.dit, TensorAdapter(tensors(0)), 2 * CONFIG.input_size
    latents = sample(
        lambda x, t, y: dit(x, t, y, adapter),
        seeded_noise([5], (CONFIG.in_channels, size, size)),
        torch.tensor([1]),
        3,
        SamplingSettings(steps=4, guidance_scale=3.0),
        channels=CONFIG.guidance_channels,
    )
    assert (alone.images[0].int() - engine.runner.decode([latents[0]])[0].int()).abs().max() <= 1


def test_adapters_and_base_generate_different_images(engine: Engine) -> None:
    images = [
        draw(engine, request(str(name), adapter=name)).result().images[0] for name in (None, "adapter-0", "adapter-1")
    ]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])


def test_forgotten_adapters_leave_host_and_device(engine: Engine) -> None:
    before = [result(engine, request(f"{k}", adapter=f"adapter-{k}")).images for k in range(2)]
    engine.forget(["adapter-0", "adapter-7"])
    assert engine.cache.resident == engine.bank.resident == ["adapter-1"]
    after = [result(engine, request(f"again-{k}", adapter=f"adapter-{k}")).images for k in range(2)]
    assert all(torch.equal(a, b) for old, new in zip(before, after, strict=True) for a, b in zip(old, new, strict=True))


def test_forgotten_adapter_is_in_use_until_its_load_ends(engine: Engine) -> None:
    """Also if no request waits for the load any more."""
    go = threading.Event()

    def slow() -> dict[str, Tensor]:
        go.wait()
        return tensors(1)

    future = engine.submit(request("loading", adapter="adapter-1"), slow)
    engine.check(60)
    requested = engine.adapters
    engine.cancel("loading")
    in_use = engine.forget(["adapter-0", "adapter-1"])
    go.set()
    assert isinstance(future.exception(60), Cancelled)
    assert requested == in_use == {"adapter-1"}
    while engine.cache.loading:  # the test run has a limit
        time.sleep(0.02)
    assert engine.forget(["adapter-1"]) == set()
    assert engine.adapters == set()


def test_forgotten_adapter_is_in_use_until_its_requests_end(engine: Engine) -> None:
    stepped = threading.Event()
    future = draw(engine, request("running", steps=1000), on_step=lambda *_: stepped.set())
    assert stepped.wait(60)
    assert engine.forget(["adapter-0"]) == {"adapter-0"}
    engine.cancel("running")
    assert isinstance(future.exception(60), Cancelled)
    assert engine.forget(["adapter-0"]) == set()
    assert engine.adapters == set()


def test_idle_engine_keeps_neither_forgotten_adapters_nor_images(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After requests that succeeded, failed in a callback, and were cancelled at a preview."""
    kept: list[weakref.ref[Any]] = []
    fold, decode = engine.bank.fold, engine.runner.pixels.decode

    def watched_fold(digest: str, tensors: Mapping[str, Tensor]) -> FoldedAdapter:
        folded = fold(digest, tensors)
        kept.extend(map(weakref.ref, (folded, folded.vectors)))
        return folded

    def watched_decode(latents: Sequence[Tensor]) -> list[Tensor]:
        kept.extend(map(weakref.ref, latents))
        images = decode(latents)
        kept.extend(map(weakref.ref, images))
        return images

    monkeypatch.setattr(engine.bank, "fold", watched_fold)
    monkeypatch.setattr(engine.runner.pixels, "decode", watched_decode)
    assert len(result(engine, request("good", adapter="adapter-0")).images) == 2
    broken = draw(engine, request("broken", adapter="adapter-1"), on_step=lambda *_: 1 / 0)
    assert isinstance(broken.exception(60), ZeroDivisionError)
    cancelled = draw(
        engine,
        request("cancelled", adapter="adapter-2", steps=900, previews=300),
        on_preview=lambda *_: engine.cancel("cancelled"),
    )
    assert isinstance(cancelled.exception(60), Cancelled)
    del broken, cancelled
    engine.forget([f"adapter-{k}" for k in range(3)])
    assert len(kept) >= 6 + 4 + 2

    while any(reference() is not None for reference in kept):  # the test run has a limit
        time.sleep(0.02)
        gc.collect()


def test_guidance_scale_of_one_costs_half(engine: Engine) -> None:
    assert draw(engine, request("guided")).result().model_evaluations == 2 * 2 * 4
    assert draw(engine, request("plain", guidance_scale=1.0)).result().model_evaluations == 2 * 4


def test_more_adapters_than_slots_are_all_served(engine: Engine) -> None:
    futures = [draw(engine, request(str(n), adapter=f"adapter-{n % 24}", seeds=(n,))) for n in range(48)]
    assert all(len(future.result(60).images) == 1 for future in futures)


def test_progress_rises_to_one(engine: Engine) -> None:
    fractions: list[float] = []
    draw(engine, request("one"), on_step=lambda done, _: fractions.append(done)).result()
    assert fractions == sorted(fractions)
    assert (len(fractions), fractions[-1]) == (8, 1.0)


def test_broken_adapter_fails_only_its_own_requests(engine: Engine) -> None:
    def broken() -> dict[str, Tensor]:
        raise ArtifactInvalid("not finite")

    good = draw(engine, request("good"))
    assert isinstance(engine.submit(request("bad", adapter="broken"), broken).exception(60), ArtifactInvalid)
    assert isinstance(draw(engine, request("class", class_id=99)).exception(60), IndexError)
    assert len(good.result(60).images) == 2
    assert result(engine, request("after")).images


def test_values_that_are_not_finite_fail_only_their_own_request(engine: Engine) -> None:
    def poisoned() -> dict[str, Tensor]:
        return {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors(0).items()}

    good = draw(engine, request("good"))
    assert isinstance(engine.submit(request("bad", adapter="nan"), poisoned).exception(60), DrawingDiverged)
    assert len(good.result(60).images) == 2


def test_request_waits_for_its_adapter_while_others_continue(engine: Engine) -> None:
    go = threading.Event()

    def slow() -> dict[str, Tensor]:
        go.wait()
        return tensors(9)

    waiting = engine.submit(request("waiting", adapter="adapter-9"), slow)
    assert result(engine, request("other")).images
    assert not waiting.done()
    go.set()
    drawn = waiting.result(60)
    assert drawn.timings["loading"] <= drawn.timings["queued"] <= drawn.timings["total"]


def test_evicted_adapter_stays_usable_for_running_requests(engine: Engine) -> None:
    alone = result(engine, request("alone", steps=30)).images
    stepped = threading.Event()
    future = draw(engine, request("together", steps=30), on_step=lambda *_: stepped.set())
    stepped.wait()
    engine.cache.forget("adapter-0")
    others = [draw(engine, request(str(n), adapter=f"adapter-{n}", tenant=str(n), seeds=(n,))) for n in range(1, 33)]
    assert all(torch.equal(a, b) for a, b in zip(alone, future.result(60).images, strict=True))
    assert all(other.result(60).images for other in others)


def test_deadline_ends_running_and_loading_requests(engine: Engine) -> None:
    go = threading.Event()

    def slow() -> dict[str, Tensor]:
        go.wait()
        return tensors(9)

    soon = time.monotonic() + 0.2
    loading = engine.submit(request("loading", adapter="adapter-9", deadline=soon), slow)
    running = draw(engine, request("running", steps=1000, deadline=soon))
    assert isinstance(loading.exception(60), DeadlineExceeded)
    assert isinstance(running.exception(60), DeadlineExceeded)
    go.set()
    assert result(engine, request("after", deadline=time.monotonic() + 1000)).images
    engine.stop()
    assert engine.stats()["waiting_images"] == 0


def test_previews_approach_each_image(engine: Engine) -> None:
    previews: list[tuple[int, int, Tensor]] = []
    future = draw(engine, request("one", steps=9, previews=2), on_preview=lambda *seen: previews.append(seen))
    images = future.result(60).images
    assert sorted((index, steps) for index, steps, _ in previews) == [(0, 3), (0, 6), (1, 3), (1, 6)]
    last = {index: picture.float() for index, steps, picture in previews if steps == 6}
    first = {index: picture.float() for index, steps, picture in previews if steps == 3}
    for index, image in enumerate(images):
        assert last[index].shape == image.shape
        assert (last[index] - image.float()).abs().mean() < (first[index] - image.float()).abs().mean()


def test_latents_are_decoded_once_the_device_has_computed_them(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that run ahead of the device end before their latents can be decoded."""
    engine, log = engine_of(autoencoder), list[str]()
    generations, runner = engine.generations, engine.runner
    wait = runner.wait
    monkeypatch.setattr(runner, "wait", lambda **how: (log.append(f"wait {how}"), wait(**how)))
    monkeypatch.setattr(generations.decoder, "add", lambda *_: log.append("decode"))
    for id, steps in (("short", 1), ("long", 2)):
        drawing = request(id, adapter=None, seeds=(5,), steps=steps)
        generations.accept(Ticket(drawing, lambda *_: None, lambda *_: None), ())
    generations.step(ahead=True)
    assert log == ["wait {'ahead': True}"]
    generations.step(ahead=True)
    assert log == ["wait {'ahead': True}"] * 2 + ["decode"]
    generations.settle()
    assert log[3:] == ["wait {}", "decode"]
    generations.settle()
    assert len(log) == 5, "nothing is left to wait for"
    generations.decoder.close()


def test_latents_of_a_step_on_a_cpu_do_not_wait_for_the_next(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has computed a step when it returns, so that running ahead would only delay its images."""
    steps: list[dict[str, bool]] = []
    step = engine.generations.step
    monkeypatch.setattr(engine.generations, "step", lambda **how: (steps.append(how), step(**how)))
    result(engine, request("image"))
    assert steps == [{"ahead": False}] * len(steps)


def test_stopped_engine_keeps_no_latents(autoencoder: Autoencoder) -> None:
    engine = engine_of(autoencoder)
    drawing = request("image", adapter=None, seeds=(5,), steps=1)
    engine.generations.accept(Ticket(drawing, lambda *_: None, lambda *_: None), ())
    engine.generations.step(ahead=True)
    engine.generations.stop(EngineStopped)
    assert not engine.generations._to_decode
    engine.generations.decoder.close()


def test_cancel_ends_the_request(engine: Engine) -> None:
    stepped = threading.Event()
    future = draw(engine, request("long", steps=1000), on_step=lambda *_: stepped.set())
    stepped.wait()
    engine.cancel("long")
    assert isinstance(future.exception(60), Cancelled)
    assert result(engine, request("next")).images
    assert engine.runner._states == {}


def test_out_of_memory_shrinks_the_batch(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = result(engine, request("alone")).images
    forward = batches.folded_forward

    def small_only(dit: DiT, x: Tensor, *others: Tensor) -> Tensor:
        if len(x) > 8:
            raise torch.OutOfMemoryError("too much")
        return forward(dit, x, *others)

    monkeypatch.setattr(batches, "folded_forward", small_only)
    futures = [draw(engine, request(str(n), tenant=str(n))) for n in range(6)]
    assert all(torch.equal(a, b) for f in futures for a, b in zip(alone, f.result(60).images, strict=True))
    assert engine.stats()["out_of_memory"] == 1
    assert engine.runner.forwards.sizes.in_use == (8,)


def test_failing_step_ends_its_requests_and_the_loop_continues(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(batches, "folded_forward", lambda *_: 1 / 0)
        assert isinstance(draw(engine, request("bad")).exception(60), ZeroDivisionError)
    assert result(engine, request("good")).images


def test_batches_of_a_single_size_give_the_same_images(autoencoder: Autoencoder) -> None:
    plain, exact = (images_of(engine_of(autoencoder, exact=exact)) for exact in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain, exact, strict=True))


def images_of(engine: Engine) -> list[Tensor]:
    engine.start()
    images = draw(engine, request("one", adapter=None)).result(600).images
    engine.stop()
    return images


def test_fewer_table_slots_than_batch_rows_are_rejected(autoencoder: Autoencoder) -> None:
    with pytest.raises(ValueError, match="32 rows may have as many adapters"):
        engine_of(autoencoder, max_rows=32)


def test_counters_add_up(engine: Engine) -> None:
    result(engine, request("one"))
    result(engine, request("two", guidance_scale=1.0, adapter=None))
    engine.stop()
    stats = engine.stats()
    assert (stats["images"], stats["rows"], stats["model_evaluations"]) == (4, 16, 24)
    assert (stats["steps"], stats["adapters"], stats["waits"]) == (8, 8, 2)
    assert (stats["cache_misses"], stats["activations"], stats["adapters_on_host"]) == (1, 1, 1)
    assert 0 < stats["forward_seconds"] <= stats["step_seconds"]


def test_full_queue_rejects_requests(engine: Engine) -> None:
    futures = [draw(engine, request(str(n), seeds=tuple(range(20)), steps=200)) for n in range(5)]
    assert isinstance(futures[-1].exception(10), QueueFull)
    for number in range(5):
        engine.cancel(str(number))


def test_stopping_fails_unfinished_work(engine: Engine) -> None:
    futures = [draw(engine, request(str(n), steps=1000)) for n in range(3)]
    training = engine.train(endless(), lambda _: None)
    engine.stop()
    assert all(isinstance(future.exception(), EngineStopped) for future in [*futures, training.future])
    with pytest.raises(EngineStopped):
        draw(engine, request("late"))


def test_stopped_training_emits_its_last_state(engine: Engine) -> None:
    events: list[Any] = []
    started = threading.Event()

    def work() -> Generator[Any, None, None]:
        steps = 0
        try:
            while True:
                steps += 1
                yield started.set()
        except EngineStopped:
            yield steps
            raise

    training = engine.train(work(), events.append)
    started.wait()
    engine.stop()
    assert isinstance(training.future.exception(), EngineStopped)
    (steps,) = events
    assert steps > 0


def test_training_runs_during_serving(engine: Engine) -> None:
    events: list[int] = []
    serving = [draw(engine, request(str(n), steps=40, seeds=(n,))) for n in range(4)]
    training = engine.train(counting(10), events.append)
    assert training.future.result() == "done"
    assert events == list(range(10))
    assert all(future.result().images for future in serving)


def test_failing_training_does_not_affect_serving(engine: Engine) -> None:
    training = engine.train(raising(ZeroDivisionError()), lambda _: None)
    assert isinstance(training.future.exception(), ZeroDivisionError)
    assert draw(engine, request("after")).result().images


def test_cancelled_training_stops(engine: Engine) -> None:
    training = engine.train(endless(), lambda _: training.cancelled.set())
    assert isinstance(training.future.exception(), Cancelled)
