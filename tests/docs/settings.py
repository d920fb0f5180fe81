"""Writes docs/settings.md from the docstrings of the settings: `python -m tests.docs.settings`."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.service.config import Settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
INTRODUCTION = """\
# Settings

Environment variables of the API and the workers, or lines of a `.env` file in their working folder. An empty value
counts as not set, and `none` means what a default of none means. API and workers need the same values, apart from those
that describe a single process."""
SECTIONS = {
    "data_dir": "Services",
    "base_model": "Base model",
    "host": "API",
    "keep_image_days": "Retention",
    "trusted_proxies": "Connections and requests",
    "lease_seconds": "Jobs",
    "max_upload_bytes": "Uploads and data sets",
    "max_batch_rows": "Generations and fine-tunes",
    "max_queued_generations": "Limits of a tenant",
    "webhooks_allow_private": "Webhooks",
    "worker_threads": "Workers",
    "log_level": "Logs, metrics and traces",
}
"""First setting of each section, and the section's heading."""


def page() -> str:
    lines = [INTRODUCTION]
    for name, description in documented():
        if name in SECTIONS:
            lines += [f"\n## {SECTIONS[name]}", "", "| `DIFFFIT_…` | default | meaning |", "| --- | --- | --- |"]
        if not description.startswith("Removed"):
            lines.append(f"| `{name.upper()}` | {_default(name)} | {_as_variables(description)} |")
    return "\n".join(lines) + "\n"


def documented() -> Iterator[tuple[str, str]]:
    """Yields the name and description of each setting, in the order of their declaration. Raises AssertionError for a
    setting without a docstring."""
    (declared,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(declared, ast.ClassDef)
    for field, docstring in zip(declared.body, declared.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign):
            name = ast.unparse(field.target)
            match docstring:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield name, inspect.cleandoc(text).replace("\n", " ")
                case _:
                    raise AssertionError(f"the setting {name} has no docstring")


def _default(name: str) -> str:
    default: Any = Settings.model_fields[name].default
    if default is None or default == "":
        return "none" if default is None else ""
    if name.endswith("_bytes"):
        unit, size = ("GiB", 2**30) if default % 2**30 == 0 else ("MiB", 2**20)
        return f"`{default}` ({default // size:,} {unit})"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _as_variables(description: str) -> str:
    """Returns the text with settings named as environment variables."""
    named = re.sub(
        r"`(\w+)`", lambda name: name[0].upper() if name[1] in Settings.model_fields else name[0], description
    )
    return named.replace("None means", "`none` means")


if __name__ == "__main__":
    PAGE.write_text(page())
