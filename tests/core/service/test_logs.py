"""Logs that people read in a terminal."""

import subprocess
import sys

import pytest

HARMFUL = {"NUL": "\0", "C1": "\x9b31m", "escape": "\x1b[2J", "bidi": "\u202e", "isolate": "\u2066", "mark": "\u200f"}
SCRIPT = """
import sys
import structlog
from core.service.config import Settings
from core.service.logs import configure_logs

configure_logs(Settings(_env_file=None, log_json=sys.argv[1] == "json"))
text = sys.stdin.buffer.read().decode()
structlog.get_logger().warning(f"event {text}", path=f"/a{text}b", ok="Bäume \\n")
structlog.get_logger("other").warning("next")
"""


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("name", HARMFUL)
def test_control_characters_in_logged_input_are_escaped(form: str, name: str) -> None:
    text = HARMFUL[name]
    done = subprocess.run([sys.executable, "-c", SCRIPT, form], input=text.encode(), capture_output=True, check=True)
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 2
    assert not any(character in done.stderr.decode() for character in text if not character.isprintable())
    assert "next" in lines[1]
