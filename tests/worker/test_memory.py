"""Free memory for training, of the machine or of a control group."""

from pathlib import Path

import pytest
import torch

from worker.memory import TRAINING_FRACTION, free_on_host, training_memory

GIB = 2**30


def machine(root: Path, available: int, group: str, limits: dict[str, tuple[str, int, int]]) -> Path:
    """Writes the files of a machine; `limits` has the limit, the used memory and the page cache of each group."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {99 * 2**20} kB\nMemAvailable: {available // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(f"0::{group}\n")
    for name, (limit, used, cache) in limits.items():
        folder = root / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\nactive_file 7\n")
    return root


@pytest.mark.parametrize(
    ("group", "limits", "free"),
    [
        ("/", {}, 8 * GIB),
        ("/", {"": (str(6 * GIB), 2 * GIB, GIB)}, 5 * GIB),
        ("/a/b", {"a/b": ("max", 9 * GIB, 0), "a": (str(3 * GIB), GIB, 0)}, 2 * GIB),
        ("/a/b", {"a/b": (str(GIB), 2 * GIB, 0)}, 0),
        ("/a/b", {"a/b": (str(99 * GIB), 0, 0)}, 8 * GIB),
        ("/not/mounted", {"": (str(4 * GIB), GIB, 0)}, 3 * GIB),
    ],
    ids=["no limit", "container", "the parent's limit", "used up", "limit above the machine", "own root"],
)
def test_smallest_limit_determines_free_memory(
    tmp_path: Path, group: str, limits: dict[str, tuple[str, int, int]], free: int
) -> None:
    assert free_on_host(machine(tmp_path, 8 * GIB, group, limits)) == free


def test_training_memory_is_a_fraction_of_the_machine_or_the_setting() -> None:
    cpu = torch.device("cpu")
    assert training_memory(cpu, 12345) == 12345
    assert 0 < training_memory(cpu, None) < TRAINING_FRACTION * torch.iinfo(torch.int64).max
    assert training_memory(cpu, None) <= TRAINING_FRACTION * 2**50
