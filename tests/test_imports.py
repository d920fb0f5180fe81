"""Limits on a process's imports, in addition to the directions that import-linter checks."""

import subprocess
import sys

import pytest

MODEL_HALF = "core.ml.model.checkpoint, core.ml.diffusion.sampling, core.ml.serving.engine, core.ml.tuning.finetune"


@pytest.mark.parametrize(
    ("blocked", "modules"),
    [
        ("torch", "api.app"),
        ("diffusers", "api.app"),
        ("diffusers", MODEL_HALF),
        ("sqlalchemy", MODEL_HALF),
        *((blocked, "benchmarks.gpu.__main__") for blocked in ("diffusers", "pydantic", "rich", "sqlalchemy")),
    ],
)
def test_modules_import_without_the_blocked_package(blocked: str, modules: str) -> None:
    code = f"import sys; sys.modules[{blocked!r}] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_api_imports_no_heavy_modules() -> None:
    """Checks that the API's start does not import heavy modules; they are imported on first use, or never."""
    heavy = {"torch", "diffusers", "nicegui", "matplotlib", "numpy", "celery", "alembic", "redis"}
    code = f"import sys, api.app; sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
