"""Measures the memory that this process may still use, on the host or on a GPU."""

from collections.abc import Iterator
from pathlib import Path

import torch

TRAINING_FRACTION = 0.5
"""Fraction of the free memory that training may use. The rest is reserved for generating images: batches, the decoder,
and more adapters."""


def training_memory(device: torch.device, limit: int | None) -> int:
    """Returns the bytes that a training step may use: `limit` if it is set, else `TRAINING_FRACTION` of the memory that
    is free now."""
    if limit is not None:
        return limit
    return int(TRAINING_FRACTION * (_free_on_gpu(device) if device.type == "cuda" else free_on_host()))


def free_on_host(root: Path = Path("/")) -> int:
    """Returns the free bytes of host memory: what the machine has available, or less if a control group limits this
    process. `root` replaces the file system's root in tests."""
    fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    available = 1024 * int(fields["MemAvailable"].split()[0])
    return max(0, min([available, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yields the bytes that each control group (cgroup v2) of this process still allows: its limit minus its usage,
    where page cache that the kernel can reclaim does not count as usage."""
    mounted = root / "sys/fs/cgroup"
    try:
        own = (root / "proc/self/cgroup").read_text().rpartition("::")[2].strip().strip("/")
    except OSError:
        own = ""
    group = mounted / own
    for folder in [group, *group.parents]:
        try:
            limit = (folder / "memory.max").read_text().strip()
            if limit != "max":
                used = int((folder / "memory.current").read_text())
                yield int(limit) - used + _cache(folder)
        except (OSError, ValueError):  # no control group here, or cgroup v1
            pass
        if folder == mounted:
            return


def _cache(folder: Path) -> int:
    lines = (folder / "memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _free_on_gpu(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
