"""What a process may import, beside the directions that import-linter checks."""

import subprocess
import sys

import pytest

MODEL_HALF = "core.model.checkpoint, core.diffusion.sampling, core.engine.engine, core.tuning.finetune"


@pytest.mark.parametrize(
    ("blocked", "modules"),
    [("torch", "api.app"), ("diffusers", "api.app"), ("diffusers", MODEL_HALF), ("sqlalchemy", MODEL_HALF)],
)
def test_imports_without(blocked: str, modules: str) -> None:
    code = f"import sys; sys.modules[{blocked!r}] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
