"""Several processes that torchrun started: sums over a training batch, shares of a prediction."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from .errors import InputError

Value = TypeVar("Value")
# A process waits for the slowest, not for one that died: then torchrun ends them all.
_PATIENCE = timedelta(days=1)
# What gloo says of a process that is gone.
_PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


class Share(NamedTuple):
    """Which part of the work is this process's; by default all of it."""

    rank: int = 0
    world: int = 1

    def part(self, length: int) -> range:
        """The consecutive items of so many that are this process's."""
        return range(length * self.rank // self.world, length * (self.rank + 1) // self.world)

    def wait(self) -> None:
        """Waits until every process has come this far."""
        if self.world > 1:
            dist.barrier()

    def tell(self, value: Value) -> Value:
        """What the first process calls it with."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def gather_rows(self, rows: Iterable[tuple[str, str]], ids: Iterable[str]) -> Iterable[tuple[str, str]] | None:
        """Brings the rows of all processes together, in the order of their ids; None in all but the first process."""
        if self.world == 1:
            return rows
        parts = [None] * self.world if self.rank == 0 else None
        dist.gather_object(list(rows), parts)
        if parts is None:
            return None
        found = dict(chain.from_iterable(parts))
        return ((id_, found[id_]) for id_ in ids)

    def check_one_machine(self, what: str) -> None:
        """Raises InputError where the processes are on several machines and do not share memory maps."""
        if self.world != int(os.environ.get("LOCAL_WORLD_SIZE", self.world)):
            raise InputError(f"{what} is shared out on one machine only, found several: choose axes z")


@contextmanager
def join_processes() -> Iterator[Share]:
    """Joins the processes that torchrun has started with this one; alone without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield Share()
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Share(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if not any(words in str(error) for words in _PEER_LOST):
            raise
        raise InputError("another process of this run has ended: its message says why, then start all again") from error
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """The number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def sum_over_processes(total: torch.Tensor) -> torch.Tensor:
    """Adds up a tensor of every process; its gradient flows back to all of them.

    Alone, the tensor itself. A loss made of such sums is the whole batch's loss in every process; averaging
    the gradients over processes, as DistributedDataParallel does, then gives that loss's exact gradient.

    Args:
        total: of any shape, the same in every process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return total
    return _SumOverProcesses.apply(total)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, total: torch.Tensor) -> torch.Tensor:
        summed = total.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed


class WholeBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the slices of all processes (torch's SyncBatchNorm exists for GPUs only)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, h, w) to the same shape; in evaluation exactly BatchNorm2d."""
        if not self.training:
            return super().forward(features)
        kept, features = features.dtype, features.float()
        size = features.new_tensor([features.numel() / features.shape[1]])
        sums = torch.cat((features.sum((0, 2, 3)), size))
        *_, pixels = sums = sum_over_processes(sums)
        mean = sums[:-1] / pixels
        centred = features - mean.view(1, -1, 1, 1)
        variance = sum_over_processes(centred.square().sum((0, 2, 3))) / pixels
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * pixels / (pixels - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(kept)


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Makes each BatchNorm2d of a model take its statistics over all processes; the model itself, changed."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = WholeBatchNorm2d
    return model
