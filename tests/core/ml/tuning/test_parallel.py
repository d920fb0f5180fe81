"""Two processes connected by `accelerate` train the same adapter as one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.ml.tuning.parallel import ALONE, Processes, started_processes
from tests.core.ml.model.small import random_dit
from tests.core.ml.tuning.test_trainer import trainer_of

STEPS = 4


def test_shares_cover_the_batch_once() -> None:
    shares = [list(range(8))[Processes(index, 3).share] for index in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_batch_with_fewer_images_than_processes_is_rejected() -> None:
    with pytest.raises(ValueError, match="too few for 6 processes"):
        trainer_of(random_dit(), processes=Processes(0, 6))


def test_two_processes_train_the_same_adapter_as_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", __name__]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / f"{index}.safetensors") for index in range(2))
    alone = trained(ALONE)
    assert int(first.pop("processes")) == int(second.pop("processes")) == 2
    assert all(torch.equal(first[name], second[name]) for name in alone)
    for name in ("first_moment", "second_moment"):
        torch.testing.assert_close(first[name], alone[name], rtol=1e-3, atol=1e-6)


def trained(processes: Processes) -> dict[str, torch.Tensor]:
    trainer = trainer_of(random_dit(), processes=processes, gradient_clip=0.01)
    for _ in range(STEPS):
        trainer.step()
    return trainer.state()


def main() -> None:
    processes = started_processes()
    count = torch.tensor(processes.count)
    save_file({**trained(processes), "processes": count}, Path(sys.argv[1]) / f"{processes.index}.safetensors")


if __name__ == "__main__":
    main()
