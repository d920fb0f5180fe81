"""`difffit train` and `difffit sample` without a server: their results equal those of a server."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

from core.artifact.file import decode
from core.ml.model.checkpoint import load_base
from difffit import Client, errors, read_settings
from difffit.cli.app import app
from difffit.requests import FinetuneSettings, GenerationSettings
from tests.api.client import adapter_file
from tests.client.conftest import CLASSES, Drawable

STEPS = ("--steps", "3", "--batch-size", "2")


def run(*words: object, folder: Path, code: int = 0) -> Any:
    """Runs a command in a separate process and returns its JSON output, or the error if it must fail."""
    command = [sys.executable, "-m", "difffit", *map(str, words), "--json"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stderr if code else done.stdout)


def run_here(
    *words: object, folder: Path, code: int = 0, options: tuple[str, ...] = ("--device", "cpu", "--json")
) -> Any:
    """Runs a command in this process, where torch is loaded already. Uses one thread like the server: on some CPUs sums
    depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.chdir(folder):
            done = CliRunner().invoke(app, [str(word) for word in (*words, *options)])
    finally:
        torch.set_num_threads(threads)
    assert done.exit_code == code, done.output
    return json.loads(done.stderr if code else done.stdout)


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DIFFFIT_")}
    return kept | {"DIFFFIT_TORCH_THREADS": "1", "DIFFFIT_DEVICE": "cpu"}


@pytest.fixture(scope="module")
def adapter(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    trained = run("train", drawings, *STEPS, "-o", "made/adapter.safetensors", folder=folder)
    assert trained["held_out_loss_adapter"] > 0
    assert trained["parameters"] == sum(tensor.size for tensor in load_file(folder / trained["adapter"]).values())
    assert sorted(path.name for path in (folder / "made").iterdir()) == ["adapter-000003.png", "adapter.safetensors"]
    return folder / str(trained["adapter"])


def test_local_training_gives_the_servers_adapter(adapter: Path, client: Client, drawable: Drawable) -> None:
    assert decode(adapter.read_bytes()).sha256 == client.adapters.get(drawable.adapter_id).sha256


def test_distributed_training_gives_nearly_the_same_adapter(adapter: Path, drawings: Path, tmp_path: Path) -> None:
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "difffit")
    command = [sys.executable, *launch, "train", str(drawings), *STEPS, "--distributed", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    trained = json.loads(done.stdout)  # of one of them
    assert decode((tmp_path / trained["adapter"]).read_bytes()).sha256 == trained["sha256"]
    bias, expected = (load_file(path)["blocks.0.attn.proj.bias"] for path in (tmp_path / trained["adapter"], adapter))
    assert abs(bias - expected).max() < 1e-4 < abs(expected).max()


def test_micro_batch_size_is_recorded_in_the_manifest(drawings: Path, tmp_path: Path) -> None:
    trained = run_here("train", drawings, *STEPS, "--micro-batch-size", 1, folder=tmp_path)
    artifact = decode((tmp_path / trained["adapter"]).read_bytes())
    assert artifact.manifest.training["micro_batch_size"] == 1


def test_local_sampling_gives_the_servers_images(
    adapter: Path, client: Client, drawable: Drawable, tmp_path: Path
) -> None:
    words = ("sample", adapter, "--class", "smiling-face", "-n", 2, "--seed", 3, "--steps", 2, "--sampler", "dpmpp_2m")
    words += ("--timestep-spacing", "dit", "--guidance-adapter-scale", 0.5, "--adapter-scale", 0.75)
    drawn = run(*words, folder=tmp_path)
    settings: GenerationSettings = {"steps": 2, "sampler": "dpmpp_2m", "timestep_spacing": "dit"}
    settings |= {"guidance_adapter_scale": 0.5, "adapter_scale": 0.75}
    pictures = client.generate(drawable.id, class_name="smiling-face", count=2, seed=3, **settings)
    assert drawn["images"] == ["samples/001-smiling-face-3.png", "samples/001-smiling-face-4.png"]
    assert [(tmp_path / path).read_bytes() for path in drawn["images"]] == [picture.data for picture in pictures]


def test_adapter_scale_of_zero_gives_the_bases_images(client: Client, drawable: Drawable) -> None:
    asked: GenerationSettings = {"class_name": "smiling-face", "steps": 3, "seed": 3}
    (nothing,) = client.generate(drawable.id, **asked, adapter_scale=0)
    (base,) = client.generate(drawable.id, **asked, adapter_id="base")
    pixels = [Image.open(io.BytesIO(picture.data)).tobytes() for picture in (nothing, base)]
    assert pixels[0] == pixels[1]
    settings = [read_settings(picture.data) for picture in (nothing, base)]
    assert [stored.get("adapter_scale") for stored in settings] == [0.0, None]


def test_both_image_sizes_match_the_server_in_one_batch(
    client: Client, drawable: Drawable, drawings: Path, tmp_path: Path
) -> None:
    """Compares a local image with one that the server generates in a batch of two sizes."""
    started = client.finetunes.start(drawable.id, drawable.dataset_id, steps=3, batch_size=2, image_size=128)
    trained = run_here("train", drawings, *STEPS, "--image-size", 128, folder=tmp_path)
    adapter_id = client.finetunes.wait(started.id).adapter_id
    assert adapter_id is not None
    assert client.adapters.get(adapter_id).sha256 == trained["sha256"]
    asked: GenerationSettings = {"class_name": "smiling-face", "steps": 4, "seed": 3}
    generations = [
        client.generations.create(drawable.id, adapter_id=id, **asked)
        for id in (adapter_id, drawable.adapter_id, adapter_id)
    ]
    large, small, again = (client.generations.wait(generation.id).images[0] for generation in generations)
    assert [(image.width, image.height) for image in (large, small)] == [(128, 128), (64, 64)]
    assert large.sha256 == again.sha256
    words = ("sample", trained["adapter"], "--class", "smiling-face", "-n", 1, "--seed", 3, "--steps", 4)
    (path,) = run(*words, folder=tmp_path)["images"]
    assert hashlib.sha256((tmp_path / path).read_bytes()).hexdigest() == large.sha256
    scales: list[tuple[str, GenerationSettings]] = [
        ("--guidance-adapter-scale", {"guidance_adapter_scale": 0.5}),
        ("--adapter-scale", {"adapter_scale": 0.5}),
    ]
    for option, scale in scales:
        refused = run_here(*words, option, 0.5, folder=tmp_path, code=6)
        with pytest.raises(errors.InvalidRequest) as refusal:
            client.generations.create(drawable.id, adapter_id=adapter_id, **asked | scale)
        assert refusal.value.errors[0]["field"] == next(iter(scale))
        assert refusal.value.errors[0]["detail"] in refused["detail"]


def test_keep_classes_leaves_the_bases_class_table_frozen(
    adapter: Path, drawings: Path, client: Client, drawable: Drawable, tmp_path: Path
) -> None:
    """Locally and on a server, with the same result."""
    words = ("train", drawings, *STEPS, "--image-size", 128, "--keep-classes")
    result = run_here(*words, folder=tmp_path)
    path = tmp_path / result["adapter"]
    kept, trained = (load_file(file)["y_embedder.embedding_table.weight"] for file in (path, adapter))
    base = load_base("mini", device=torch.device("cpu"), dtype=torch.float32)
    rows = [base.description.class_names.index(name) for name in CLASSES]
    expected = base.dit.y_embedder.embedding_table.weight[[*rows, base.dit.config.null_class]].numpy()
    assert (kept == expected).all()
    assert (trained != expected).any()
    assert decode(path.read_bytes()).manifest.training["train_class_table"] is False
    assert result["parameters"] == sum(tensor.size for tensor in load_file(path).values()) - kept.size
    settings: FinetuneSettings = {"steps": 3, "batch_size": 2, "image_size": 128, "train_class_table": False}
    served = client.finetunes.wait(client.finetunes.start(drawable.id, drawable.dataset_id, **settings).id)
    assert client.adapters.get(served.adapter_id or "").sha256 == decode(path.read_bytes()).sha256
    shutil.copytree(drawings, tmp_path / "strange")
    (tmp_path / "strange" / CLASSES[0]).rename(tmp_path / "strange" / "unheard-of")
    refused = run_here("train", "strange", *STEPS, "--keep-classes", folder=tmp_path, code=6)
    assert "--keep-classes: the base has no class unheard-of" in refused["detail"]


def test_complete_images_are_not_generated_again(adapter: Path, tmp_path: Path) -> None:
    words = ("sample", adapter, "--seed", 0, "--steps", 2, "-n")
    first = run_here(*words, 1, folder=tmp_path)["images"]
    assert first == [f"samples/{id:03}-{name}-0.png" for id, name in enumerate(CLASSES)]
    (tmp_path / first[1]).write_bytes(b"half of an image")
    before = [(tmp_path / path).stat().st_mtime_ns for path in first]
    both = run_here(*words, 2, folder=tmp_path)["images"]
    assert len(both) == 4
    after = [(tmp_path / path).stat().st_mtime_ns for path in first]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]
    assert read_settings((tmp_path / first[1]).read_bytes())["class"] == "smiling-face"


def test_interrupted_training_resumes_from_its_checkpoint(drawings: Path, tmp_path: Path) -> None:
    words = ["train", str(drawings), "--batch-size", "2", "--checkpoint-every", "1", "--steps", "60"]
    checkpoint = tmp_path / "adapter.checkpoint"
    command = [sys.executable, "-m", "difffit", *words]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE) as process:
        while not checkpoint.is_file():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert not (tmp_path / "adapter.safetensors").exists()
    refused = run_here(*words, "--seed", 1, folder=tmp_path, code=1)
    assert (refused["code"], "--restart" in refused["detail"]) == ("checkpoint_invalid", True)
    result = run_here(*words, folder=tmp_path)
    assert 1 <= result["started_at_step"] < result["steps"] == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter-000060.png", "adapter.safetensors"]
    assert decode((tmp_path / "adapter.safetensors").read_bytes()).sha256 == result["sha256"]


def test_restart_ignores_the_checkpoint(drawings: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter.checkpoint").write_bytes(b"of another run")
    result = run_here("train", drawings, *STEPS, "--restart", folder=tmp_path)
    assert result["started_at_step"] == 0
    assert not (tmp_path / "adapter.checkpoint").exists()


def export(*words: object, folder: Path, code: int = 0) -> Any:
    return run_here("export", *words, "-o", "model", folder=folder, code=code, options=("--json",))


def test_exported_model_generates_the_adapters_images_as_a_base(adapter: Path, tmp_path: Path) -> None:
    # The exported model has no weaker version to guide against.
    asked = ("--class", "fruit", "-n", 1, "--seed", 4, "--steps", 2, "--guidance-adapter-scale", 1)
    (by_adapter,) = run_here("sample", adapter, *asked, "-o", "a", folder=tmp_path)["images"]
    exported = export(adapter, "--format", "dit", folder=tmp_path)
    manifest = decode(adapter.read_bytes()).manifest
    assert (exported["licence"], exported["class_names"]) == (manifest.base_licence, list(CLASSES))
    assert json.loads((tmp_path / "model" / "difffit.json").read_text())["adapter"] == exported["adapter"]
    autoencoder = load_file(tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in autoencoder.values()} == {np.dtype(np.float32)}
    (by_model,) = run_here("sample", "--base", "model", *asked, "-o", "b", folder=tmp_path)["images"]
    images = [np.asarray(Image.open(tmp_path / path)).astype(int) for path in (by_adapter, by_model)]
    assert np.abs(images[0] - images[1]).max() <= 2
    refused = export(adapter, folder=tmp_path, code=6)
    assert "exists already" in refused["detail"]


def test_export_refuses_an_adapter_with_learned_guidance(tmp_path: Path) -> None:
    (tmp_path / "guided.safetensors").write_bytes(adapter_file(distill_guidance=3))
    refused = export("guided.safetensors", folder=tmp_path, code=6)
    assert "ADAPTER: it has learned guidance" in refused["detail"]
    assert not (tmp_path / "model").exists()


def test_diffusers_loads_an_exported_folder(adapter: Path, tmp_path: Path) -> None:
    export(adapter, folder=tmp_path)
    pipeline: Any = DiTPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    labels = pipeline.get_label_ids(list(CLASSES))
    images = pipeline(class_labels=labels, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 64, 64, 3)
    assert images.std() > 0.01


def test_sample_without_adapter_uses_the_base(tmp_path: Path) -> None:
    (path,) = run_here("sample", "--class", "car", "-n", 1, "--steps", 1, folder=tmp_path)["images"]
    assert read_settings((tmp_path / path).read_bytes())["adapter"] == "base"


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["sample", "{adapter}", "--class", "lion"], "unknown_class", 6),
        (["sample", "{adapter}", "--base", "no such base"], "base_missing", 1),
        (["sample", "{drawings}/notes.txt"], "artifact_invalid", 6),
        (["train", "{drawings}/notes.txt"], "not_a_zip", 6),
        (["train", "{drawings}", "--preset", "other"], "invalid_request", 6),
        (["train", "{drawings}", "--image-size", "96"], "invalid_request", 6),
        (["train", "{drawings}", "--distill-guidance", "1"], "invalid_request", 6),
        (["train", "{drawings}", "--distill-guidance", "inf"], "invalid_request", 6),
        (["train", "{drawings}", "--distill-guidance", "2", "--steps", "1"], "invalid_request", 6),
        (["train", "{drawings}", "--learning-rate", "0"], "invalid_request", 6),
        (["train", "{drawings}", "--learning-rate", "nan"], "invalid_request", 6),
        (["train", "{drawings}", "--seed", "9223372036854775808"], "invalid_request", 6),
        (["train", "{drawings}", "--early-stopping", "9223372036854775808"], "invalid_request", 6),
    ],
)
def test_invalid_input_is_reported_with_its_error_code(
    adapter: Path, drawings: Path, tmp_path: Path, words: list[str], code: str, exit_code: int
) -> None:
    filled = [word.format(adapter=adapter, drawings=drawings) for word in words]
    assert run_here(*filled, folder=tmp_path, code=exit_code)["code"] == code


@pytest.mark.parametrize("words", [("sample", "--seed", 2**64), ("train", ".", "--micro-batch-size", 2**63)])
def test_number_that_no_file_can_contain_is_a_usage_error(tmp_path: Path, words: tuple[object, ...]) -> None:
    with contextlib.chdir(tmp_path):
        done = CliRunner().invoke(app, [str(word) for word in words])
    assert (done.exit_code, f"for '{words[-2]}'" in done.output) == (2, True)


def test_local_commands_are_listed_without_importing_torch(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "difffit"), "--help"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    panel = listed[listed.index("Without a server") :]
    assert all(name in panel for name in ("train", "sample", "export"))
    code = "import sys, local.commands; sys.exit('torch' in sys.modules or 'sqlalchemy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_torch_is_reported_with_the_extra_to_install(drawings: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from difffit.cli.app import app; app()"
    command = [sys.executable, "-c", code, "train", str(drawings), "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert ".[worker]" in json.loads(done.stderr)["detail"]
