"""Runs a fine-tuning method in a separate process, so that its memory is measured separately."""

import multiprocessing
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.finetune_cost.subjects import Seconds, Setting, make

GIBIBYTE = 2**30
_FAILED = "failed"


class Subject:
    """Fine-tuning method in a separate process. `seconds` runs one more training step; `peak_gibibytes` covers all
    training steps so far."""

    def __init__(self, name: str, setting: Setting) -> None:
        """Starts the process. Raises RuntimeError with the process's traceback if the model or its training step cannot
        be built."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, setting), daemon=True)
        self._process.start()
        self.trainable = int(self._answer())

    def seconds(self) -> tuple[Seconds, Seconds]:
        """Runs one training step. Returns its time, and the optimizer's part of that time."""
        measured: tuple[Seconds, Seconds] = self._ask("seconds")
        return measured

    def peak_gibibytes(self) -> float:
        peak: float = self._ask("peak")
        return peak

    def close(self) -> None:
        self._pipe.close()
        self._process.join()

    def _ask(self, question: str) -> Any:
        self._pipe.send(question)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"The process of the measurement ended with {self._process.exitcode}") from None
        if answer == _FAILED:
            raise RuntimeError(self._pipe.recv())
        return answer


def _serve(pipe: Connection, name: str, setting: Setting) -> None:
    try:
        torch.set_num_threads(setting.threads)
        _warm_up()
        memory = _Memory(setting.device)
        step = make(name, setting)
        memory.forget_peak()
        pipe.send(step.trainable)
        while True:
            pipe.send(step.seconds() if pipe.recv() == "seconds" else memory.peak())
    except EOFError:
        return
    except Exception:  # reported to the parent process, which raises it
        pipe.send(_FAILED)
        pipe.send(traceback.format_exc())


def _warm_up() -> None:
    """Imports the libraries and starts torch's threads, so that their memory is not counted as a method's."""
    import diffusers  # noqa: F401
    import peft  # noqa: F401

    torch.ones(512, 512, requires_grad=True).matmul(torch.ones(512, 512)).sum().backward()


class _Memory:
    """Peak memory: on a GPU the memory that torch has allocated, on a CPU the resident memory of the process beyond
    that at its start."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device != "cpu"
        self._start = _of_status("VmRSS")

    def forget_peak(self) -> None:
        """Resets the peak, so that memory that was only needed to build the model does not count as a training
        step's."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> float:
        if self.on_gpu:
            return float(torch.cuda.max_memory_allocated()) / GIBIBYTE
        return (_of_status("VmHWM") - self._start) / GIBIBYTE


def _of_status(name: str) -> int:
    """Returns a field of `/proc/self/status`, such as VmRSS, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status[name].split()[0])
