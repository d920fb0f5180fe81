"""One batch over several processes: each trains on its share of the rows, and their gradients are summed.

All of them draw the same batch, timesteps and noise, so that they end with the same adapter as one process alone, but
for the rounding of sums.
"""

import atexit
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """Index of this process, and the count of all. The default is a single process."""

    index: int = 0
    count: int = 1

    @property
    def share(self) -> slice:
        """Slice of a batch's rows for this process: at least one row of a batch with `count` rows."""
        return slice(self.index, None, self.count)

    def summed(self, tensor: Tensor) -> Tensor:
        """Returns the sum over all processes, in each of them."""
        if self.count == 1:
            return tensor
        from accelerate.utils import reduce

        total: Tensor = reduce(tensor, "sum")
        return total


ALONE = Processes()


def started_processes() -> Processes:
    """Joins the processes that `accelerate launch` or `torchrun` started; alone where neither did."""
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes > 1:
        atexit.register(state.destroy_process_group)  # its threads would abort a process that ends before them
    return Processes(state.process_index, state.num_processes)
