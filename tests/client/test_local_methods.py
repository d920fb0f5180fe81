"""`difffit train` and `difffit sample` with methods that no server serves, and with custom sites."""

from pathlib import Path

import pytest
from PIL import Image

from core.artifact.additions import AdaptFormer, Lora, Prompts
from core.artifact.file import decode
from core.artifact.sites import MethodSites, Sites
from tests.client.test_local import STEPS, run_here


@pytest.mark.parametrize(
    ("words", "sites", "preset", "rate"),
    [
        ("--method lora --site rank=2 --site matrices=qkv", Lora(rank=2, matrices="qkv"), None, 1e-3),
        ("--method adaptformer --site placement=sequential", AdaptFormer(placement="sequential"), None, 1e-3),
        ("--method vpt", Prompts(), None, 1e-3),
        ("--method full", Sites(), "paper", 1e-4),
        ("--site first_block=2 --site patch=true --learning-rate 0.002", Sites(first_block=2, patch=True), None, 2e-3),
    ],
)
def test_each_method_trains_stores_and_generates(
    drawings: Path, tmp_path: Path, words: str, sites: MethodSites, preset: str | None, rate: float
) -> None:
    trained = run_here("train", drawings, *STEPS, *words.split(), folder=tmp_path)
    data = (tmp_path / trained["adapter"]).read_bytes()
    manifest = decode(data, limit_bytes=len(data)).manifest
    assert (manifest.sites, manifest.preset, manifest.training["learning_rate"]) == (sites, preset, rate)
    asked = ("sample", "adapter.safetensors", "--class", "smiling-face", "--steps", 2, "--sampler", "ddpm")
    together = run_here(*asked, "-n", 2, "--seed", 0, folder=tmp_path)["images"]
    alone = run_here(*asked, "-n", 1, "--seed", 1, "-o", "again", folder=tmp_path)["images"]
    first, second, third = (Image.open(tmp_path / path).tobytes() for path in (*together, *alone))
    assert first != second
    differences = [abs(a - b) for a, b in zip(second, third, strict=True)]
    assert max(differences) <= 1, "an image must not depend on others in its batch"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--method", "lora", "--site", "rank=0"], "rank of 0"),
        (["--method", "lora", "--site", "rank=many"], "Invalid value for 'rank'"),
        (["--method", "lora", "--site", "qkv=true"], "takes the sites rank, scale, matrices"),
        (["--method", "vpt", "--site", "blocks=99"], "99 blocks with prompts"),
        (["--site", "last_block=99"], "not within the depth"),
    ],
)
def test_invalid_sites_are_reported(drawings: Path, tmp_path: Path, words: list[str], problem: str) -> None:
    refused = run_here("train", drawings, *STEPS, *words, folder=tmp_path, code=6)
    assert refused["code"] == "invalid_request"
    assert problem in refused["detail"]


def test_guidance_of_the_engine_is_rejected_for_methods_outside_it(drawings: Path, tmp_path: Path) -> None:
    run_here("train", drawings, *STEPS, "--method", "lora", folder=tmp_path)
    words = ("sample", "adapter.safetensors", "-n", 1, "--steps", 1)
    refused = run_here(*words, "--guidance-interval", 0, 500, folder=tmp_path, code=6)
    assert "adapters of the method 'lora' need guidance at every timestep" in refused["detail"]
    refused = run_here(*words, "--guidance-adapter-scale", 0.5, folder=tmp_path, code=6)
    assert "adapters of the method 'lora' have no other scale" in refused["detail"]
