"""`python -m tests.faults.broken_worker`: the worker, whose device dies and whose jobs take memory on demand.

Both replace hardware that this machine lacks. The folder in `FAULTS_SWITCHES` has the switches; everything else is the
unchanged worker.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from core.ml.serving.pixels import PixelDecoder
from core.ml.serving.runner import Runner
from core.ml.tuning.passes import MicroBatch
from core.ml.tuning.trainer import Trainer
from worker.__main__ import main

SWITCHES = "FAULTS_SWITCHES"
DEVICE_DIES = "device-dies"
"""Name of a file that kills the device of one worker; the worker removes the file."""
KILLER_SEED = 666
"""Seed whose images kill the device."""
GREEDY_SEED = 667
"""Seed of a fine-tune that takes memory until its worker is killed."""
MAX_GREEDY_BYTES = 4 * 2**30
_PIECE = 64 * 2**20


class Device:
    """Device that fails every call with the same error once it has died, as a CUDA context does."""

    def __init__(self, switches: Path) -> None:
        self.switch = switches / DEVICE_DIES
        self.is_dead = False

    def compute(self, *, deadly: bool = False) -> None:
        """Raises RuntimeError if the device is dead or dies now."""
        with suppress(FileNotFoundError):
            self.switch.unlink()
            self.is_dead = True
        self.is_dead |= deadly
        if self.is_dead:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


def broken(device: Device) -> None:
    """Runs the worker with this device."""
    step, decode, check = Runner.step, PixelDecoder.decode, Runner.check
    micro_batch = Trainer._micro_batch

    def dying_step(self: Runner, rows: Any) -> None:
        device.compute(deadly=any(row.seed == KILLER_SEED for row in rows))
        step(self, rows)

    def dying_decode(self: PixelDecoder, latents: Any) -> list[Tensor]:
        device.compute()
        return decode(self, latents)

    def dying_check(self: Runner) -> None:
        device.compute()
        check(self)

    def dying_micro_batch(self: Trainer, rows: Any) -> MicroBatch:
        device.compute()
        if self.settings.seed == GREEDY_SEED:
            eat()
        return micro_batch(self, rows)

    with (
        patch.multiple(Runner, step=dying_step, check=dying_check),
        patch.object(PixelDecoder, "decode", dying_decode),
        patch.object(Trainer, "_micro_batch", dying_micro_batch),
    ):
        main()


def eat() -> None:
    """Takes memory until this process is killed."""
    taken = []
    while len(taken) * _PIECE < MAX_GREEDY_BYTES:
        taken.append(b"x" * _PIECE)
        time.sleep(0.02)


if __name__ == "__main__":
    broken(Device(Path(os.environ[SWITCHES])))
