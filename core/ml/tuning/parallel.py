"""Data-parallel training: each process computes the gradient of its own rows of a batch, and the gradients are summed.

All processes draw the same batch, timesteps and noise. So they train the same adapter as a single process would, except
for the rounding of the sums.
"""

import atexit
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """Index of this process, and the number of processes that train together. The default is a single process."""

    index: int = 0
    count: int = 1

    @property
    def share(self) -> slice:
        """Slice of a batch's rows that this process computes: every `count`-th row, starting at row `index`."""
        return slice(self.index, None, self.count)

    def summed(self, tensor: Tensor) -> Tensor:
        """Returns the sum of `tensor` over all processes, in each process."""
        if self.count == 1:
            return tensor
        from accelerate.utils import reduce

        total: Tensor = reduce(tensor, "sum")
        return total


ALONE = Processes()


def started_processes() -> Processes:
    """Joins the process group if `accelerate launch` or `torchrun` started this process, and returns its index and
    size. Otherwise returns a single process."""
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes > 1:
        atexit.register(state.destroy_process_group)  # else the group's threads could abort this process at its exit
    return Processes(state.process_index, state.num_processes)
