"""Every phase of the GPU benchmark runs on a tiny model, and a failing phase does not affect the others."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.baselines.plain_dit import PlainDiT
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import page, session
from benchmarks.gpu.goals import GOALS, Goal
from benchmarks.gpu.lab import MINI, Lab
from benchmarks.gpu.operations import training_operations
from benchmarks.gpu.phases import PHASES
from benchmarks.gpu.profiling import Kernel, busy_seconds, kind_of, summary
from benchmarks.gpu.session import Overrun, Phase
from core.artifact.base import BaseConfig
from core.artifact.errors import DeviceLost
from tests.core.ml.model.small import batch, difference, random_dit
from tests.docs.test_links import ROOT

ALONE = """
import importlib.metadata, runpy, sys
from importlib.machinery import PathFinder

NEEDED = {"torch", "triton", "numpy", "safetensors", "PIL"}
OF_TORCH = {"functorch", "torchgen", "sympy", "mpmath", "filelock", "fsspec", "jinja2", "markupsafe", "networkx",
            "typing_extensions", "setuptools", "pkg_resources", "isympy", "_distutils_hack"}
OURS = {"core", "benchmarks"}

class Finder(PathFinder):
    missing = set(importlib.metadata.packages_distributions()) - NEEDED - OF_TORCH - OURS

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in cls.missing else super().find_spec(name, path, target)

assert {"diffusers", "pydantic", "rich", "peft", "sqlalchemy"} <= Finder.missing
sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
sys.argv = ["benchmarks.gpu", *sys.argv[1:]]
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""


def figures(value: Any) -> Iterator[float]:
    """Yields every number in a result."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from figures(part)
    elif isinstance(value, float):
        yield value


def test_every_phase_runs_with_only_torch_triton_numpy_and_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    arguments = ["--mini", "--seconds", "3600", "--json", str(path)]
    done = subprocess.run([sys.executable, "-c", ALONE, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = json.loads(path.read_text())
    assert list(written["phases"]) == list(PHASES)
    assert list(page._errors(written["phases"])) == []
    for name, result in written["phases"].items():
        numbers = list(figures(result))
        assert len(numbers) > 1, name
        assert all(map(math.isfinite, numbers)), name
    assert not written["phases"]["engine"]["decodes"]
    for table in page.parts(written):
        assert table in done.stdout
    for name in ("ceilings", "forwards", "engine", "profile"):
        assert len(page.parts({**written, "phases": {**written["phases"], name: {}}})) < len(page.parts(written))


@pytest.mark.parametrize("phase", ["engine", "full", "decoder"])
def test_phases_use_diffusers_where_it_is_installed(phase: str) -> None:
    result: dict[str, Any] = {}
    PHASES[phase].measure(mini_lab(), result)
    assert result.get("decodes", True)
    assert result.get("by", "diffusers") == "diffusers"


def test_mini_size_keeps_the_goals_that_do_not_depend_on_speed() -> None:
    lab = mini_lab()
    for name in ("equality", "independence", "kinds", "fp8"):
        lab.results[name] = result = {}
        PHASES[name].measure(lab, result)
    assert lab.results["equality"]["float32"]["relative_error_from_reference"] < 1e-5
    assert lab.results["independence"]["exact"]["largest_difference"] == 0
    kinds = lab.results["kinds"]
    assert kinds["exact"]["largest_difference"] == 0
    assert kinds["exact"]["equal_images"] == len(kinds["default"]["relative"])
    assert kinds["learning"]["largest_relative_difference"] == 0
    forward, layers = lab.results["fp8"]["forward"], lab.results["fp8"]["layers"]
    assert all(0 < row["fp8_relative_error"] < 0.06 for row in (forward, *layers))


def test_failing_phase_reports_its_error_and_the_next_one_runs(tmp_path: Path) -> None:
    def broken(_: Lab, result: dict[str, Any]) -> None:
        result["value"] = 1
        raise ValueError("no such kernel")

    written = run({"broken": Phase(broken, 10), "next": Phase(lambda _, result: result.update(value=2), 10)}, tmp_path)
    assert written["broken"]["error"] == "ValueError: no such kernel"
    assert (written["broken"]["value"], written["next"]["value"]) == (1, 2)


def test_failing_part_reports_its_error_and_the_phase_continues(tmp_path: Path) -> None:
    def half(_: Lab, result: dict[str, Any]) -> None:
        result["rows"] = [{}, {}]
        for index, row in enumerate(result["rows"]):
            with session.recorded(row):
                row["value"] = 1 / index

    written = run({"half": Phase(half, 10)}, tmp_path)
    assert written["half"]["rows"] == [{"error": "ZeroDivisionError: division by zero"}, {"value": 1.0}]
    assert list(page._errors(written)) == ["Phase 'half': ZeroDivisionError: division by zero"]


@pytest.mark.parametrize("error", [Overrun(""), DeviceLost(""), RuntimeError("CUDA error: misaligned address")])
def test_overrun_and_lost_device_end_the_part(error: Exception) -> None:
    with pytest.raises(type(error)), session.recorded({}):
        raise error


def test_overrunning_phase_is_ended_and_the_next_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LEAST_SECONDS", 0)

    def endless(_: Lab, result: dict[str, Any]) -> None:
        result["value"] = 1
        time.sleep(600)

    written = run({"endless": Phase(endless, 0.1), "next": Phase(lambda *_: None, 10)}, tmp_path)
    assert written["endless"]["error"].startswith("Overrun")
    assert written["endless"]["value"] == 1
    assert "error" not in written["next"]


def test_swallowed_overrun_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "REPEAT_SECONDS", 0.05)

    @session.time_limit(0.05)
    def swallowing() -> None:
        with suppress(Overrun):
            time.sleep(600)
        time.sleep(600)

    with pytest.raises(Overrun):
        swallowing()


def test_phase_without_time_left_is_not_started(tmp_path: Path) -> None:
    written = run({"late": Phase(lambda *_: pytest.fail("the phase was started"), 10)}, tmp_path, seconds=0)
    assert written["late"] == {"error": "No time was left."}


def test_phases_of_an_earlier_run_are_kept_except_those_without_time(tmp_path: Path) -> None:
    phases = {"old": {"seconds": 1.0, "value": 1}, "late": {"error": "no time"}}
    session.write(tmp_path / "gpu.json", {"date": "2026-12-01", "phases": phases})
    assert session.read(tmp_path / "gpu.json") == {"old": {"date": "2026-12-01", **phases["old"]}}
    assert session.read(tmp_path / "none.json") == {}


def test_lost_device_runs_remaining_phases_in_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise DeviceLost("an illegal memory access")

    started: list[list[str]] = []
    monkeypatch.setattr(command.os, "execv", lambda _, arguments: started.append(arguments))
    monkeypatch.setattr(command, "faulthandler", SimpleNamespace(**dict.fromkeys(FAULTHANDLER, lambda *_, **__: None)))
    monkeypatch.setattr(session, "check_device", lost)
    phases = {"ceilings": lambda *_: None, "lost": lost, "next": lambda *_: None, "other": lambda *_: None}
    monkeypatch.setattr(command, "PHASES", {name: Phase(measure, 10) for name, measure in phases.items()})
    path = tmp_path / "gpu.json"
    command.main(["--mini", "--json", str(path), "--phases", "lost,next"])
    (arguments,) = started
    again = command._options(arguments[3:])
    assert (again.resume, again.mini, again.json) == (True, True, path)
    assert 0 < again.seconds < command.SECONDS
    assert list(session.read(path)) == ["ceilings", "lost"]


FAULTHANDLER = ("dump_traceback_later", "cancel_dump_traceback_later")


def test_page_rejects_figures_of_mini_size(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    session.write(path, {"mini": True, "phases": {}})
    with pytest.raises(SystemExit, match="mini size"):
        page.write(path)


def test_page_names_a_phase_that_ended_early(tmp_path: Path) -> None:
    machine = {"cpu": "a CPU", "cores": 16, "gpu": "a GPU"}
    phases = {"engine": {"error": "Overrun: longer than 60 s", "seconds": 60.0, "runs": []}}
    run_facts = {"mini": False, "hardware": machine, "command": "this", "date": "2026-12-01", "seeds": "0"}
    session.write(tmp_path / "gpu.json", {**run_facts, "phases": phases})
    page.write(tmp_path / "gpu.json")
    written = (tmp_path / "gpu.md").read_text()
    assert "Phase 'engine': Overrun: longer than 60 s" in written
    assert "not measured" in written


def test_goals_are_minimums_or_maximums() -> None:
    lower, upper = Goal("", 0.97, lambda _: None), Goal("", 0.35, lambda _: None, is_least=False)
    assert replace(lower.measure({}), value=0.98).verdict == "pass"
    assert [replace(lower.measure({}), value=value).verdict for value in (0.96, 0.97)] == ["below", "pass"]
    assert [replace(upper.measure({}), value=x).verdict for x in (0.34, 0.35, 0.36)] == ["pass", "pass", "below"]
    assert {goal.measure({}).verdict for goal in GOALS} == {"not measured"}


def test_plain_pytorch_model_equals_the_base() -> None:
    dit = random_dit()
    x, t, y = batch()
    result = PlainDiT(dit)(x, timestep=t, class_labels=y).sample.detach()
    assert difference(result, dit(x, t, y)) < 1e-5


def test_full_step_has_half_again_the_operations_of_a_difffit_step() -> None:
    config = BaseConfig()
    assert 32 * training_operations(config, "difffit") == pytest.approx(15.2e12, rel=0.01)
    assert training_operations(config, "full") / training_operations(config, "difffit") == 1.5


def test_overlapping_kernels_are_counted_once() -> None:
    kernels = [Kernel("a", 0, 10), Kernel("b", 5, 10), Kernel("c", 6, 2), Kernel("d", 20, 5)]
    assert busy_seconds(kernels) == pytest.approx(20e-6)
    assert summary(kernels)["busy_ms"] == pytest.approx(0.02)
    assert busy_seconds([]) == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_sm90_tst_128x256_64x4_1x2_h_bz_coopA_NTT", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "products"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<96>>", "attention"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>", "element-wise and sums"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<BFloat16, float>", "layer norm"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("_gated_norm_kernel", "fused"),
        ("triton_red_fused_native_layer_norm_3", "fused"),
    ],
)
def test_kernels_are_classified_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def mini_lab() -> Lab:
    return Lab(torch.device("cpu"), MINI)


def run(phases: Mapping[str, Phase], folder: Path, seconds: float = 100) -> dict[str, Any]:
    path = folder / "gpu.json"
    session.run(phases, mini_lab(), path, {}, seconds)
    written: dict[str, Any] = json.loads(path.read_text())["phases"]
    return written
