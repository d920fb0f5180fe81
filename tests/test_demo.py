"""`make demo`'s script, with fewer steps and images."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

DEMO = Path(__file__).parents[1] / "demo.py"
SMALL = ("--steps", "2", "--batch-size", "2", "--count", "1")


def test_demo_writes_picture_and_report(tmp_path: Path) -> None:
    command = [sys.executable, str(DEMO), *SMALL]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    output = tmp_path / "demo-output"
    assert done.returncode == 0, f"{done.stderr}\n{(output / 'server.log').read_text()}"
    report = json.loads((output / "report.json").read_text())
    assert report["finetune_steps"] == 2
    assert report["held_out_loss_adapter"] > 0
    assert [image["seed"] for image in report["images"]] == [1] * 8
    with Image.open(output / "before_after.png") as sheet:
        assert sheet.size == (110 + 2 * 102 + 24, 30 + 8 * 102)
    assert "160 images in 8 classes" in done.stdout
