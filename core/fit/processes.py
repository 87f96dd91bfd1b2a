"""One run in several processes, which ``torchrun`` or ``accelerate launch`` starts: each computes its part of a batch.

The result is that of one process, to rounding, where the loss of a step is the mean of what the processes compute of
it. What is taken over the whole batch has to be taken over all processes: sums of a loss (``Processes.total``) and the
statistics of batch norm (``batch_norm.share_batch_norm``). A recipe that cannot do that says so (``RecipeRun.alone``);
one that knows nothing of processes computes every batch whole in each of them, which is right and gains nothing. The
first process alone evaluates, writes and speaks. torch is imported when there is more than one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: the first evaluates alone. The launcher ends all where one has died."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of a run.

    Parameters
    ----------
    rank, count : int
        Its number, from 0, and how many there are.
    local : int
        Its number on this machine.
    local_count : int
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Evaluates, writes and speaks for all."""
        return self.rank == 0

    def part(self, batch: int) -> range:
        """Which of ``batch`` samples are this process's; ``batch`` is a multiple of the number of processes."""
        each = batch // self.count
        return range(self.rank * each, (self.rank + 1) * each)

    def mean(self, x: Tensor) -> Tensor:
        """Mean of ``x`` over the processes, with gradients."""
        if self.count == 1:
            return x
        from .batch_norm import mean_over_processes

        return mean_over_processes(x)

    def total(self, x: Tensor) -> Tensor:
        """Sum of ``x`` over the processes, with gradients."""
        return x if self.count == 1 else self.mean(x) * self.count

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their means over the processes."""
        if self.count == 1:
            return
        import torch
        import torch.distributed as dist

        joined = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(joined)
        joined /= self.count
        for tensor, mean in zip(tensors, torch.split(joined, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def from_first(self, value: Any) -> Any:
        """What the first process holds, in all of them."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def agree(self, fault: Exception | None = None) -> None:
        """Go on where all processes can; ``fault`` is what keeps this one from it, and is not raised here.

        Raises
        ------
        UsageError
            If another process cannot: the first, which speaks for all, must know why.
        """
        if self.count == 1:
            return
        import torch.distributed as dist

        faults: list[str | None] = [None] * self.count
        dist.all_gather_object(faults, None if fault is None else str(fault) or type(fault).__name__)
        if fault is None:
            for rank, text in enumerate(faults):
                if text is not None:
                    raise UsageError(f"process {rank} of {self.count}: {text}")


ALONE = Processes()


def processes_of_environment() -> Processes:
    """This process as its launcher describes it; the only one where there is no launcher."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        rank, count, local, local_count = (int(os.environ.get(name, name.endswith("SIZE"))) for name in names)
    except ValueError:
        return ALONE
    return Processes(rank, count, local, local_count) if count > 1 and rank >= 0 else ALONE


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes of this run, connected for as long as the context lasts."""
    processes = processes_of_environment()
    if processes.count == 1:
        yield processes
        return
    import torch
    import torch.distributed as dist

    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"WORLD_SIZE is {processes.count}, but the processes do not find each other ({error}). "
            "Start them with torchrun or accelerate launch, or unset WORLD_SIZE."
        ) from error
    try:
        yield processes
    finally:
        dist.destroy_process_group()
