"""Command lines of the service's processes: help and arguments do not start anything."""

import runpy
import sys
from pathlib import Path

import pytest

from core.service.command_line import read_settings
from core.service.config import get_settings

COMMANDS = ["api", "worker", "worker.health", "migrations", "core.service.storage", "core.service.backup"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--no-such-option", 2)])
def test_help_and_unknown_arguments_start_nothing(
    command: str,
    argument: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DIFFFIT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", [command, argument])
    for module in (command, f"{command}.__main__"):  # runpy warns of a module that is run a second time
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(command, run_name="__main__")
    assert end.value.code == status
    shown = capsys.readouterr()
    assert f"usage: python -m {command} [-h]" in (shown.err if status else shown.out)
    assert status or f"`python -m {command}" in " ".join(shown.out.split())
    assert not (tmp_path / "data").exists()


def test_invalid_setting_ends_a_command_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["worker"])
    monkeypatch.setenv("DIFFFIT_PORT", "many")
    get_settings.cache_clear()
    with pytest.raises(SystemExit) as end:
        read_settings("worker", "A worker.", "The worker cannot start")
    assert str(end.value.code).startswith("The worker cannot start: DIFFFIT_PORT: ")
