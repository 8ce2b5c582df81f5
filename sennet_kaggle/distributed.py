"""Several processes that torchrun started: sums over a training batch, shards of a prediction."""

import inspect
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from .errors import InputError

Value = TypeVar("Value")
# A process waits for the slowest, not for one that died: then torchrun ends them all.
PATIENCE = timedelta(days=1)
_BATCH_NORM = inspect.signature(F.batch_norm)
# What gloo says of a process that is gone.
_PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


class Shard(NamedTuple):
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
        parts: list[list[tuple[str, str]]] | None = [[]] * self.world if self.rank == 0 else None
        dist.gather_object(list(rows), parts)
        if parts is None:
            return None
        found = dict(chain.from_iterable(parts))
        return ((id_, found[id_]) for id_ in ids)

    def check_one_machine(self, what: str) -> None:
        """Raises InputError where the processes are on several machines and do not share memory maps."""
        if self.world != int(os.environ.get("LOCAL_WORLD_SIZE", self.world)):
            raise InputError(f"{what} is distributed over one machine only, found several: choose axes z")


@contextmanager
def join_processes() -> Iterator[Shard]:
    """Joins the processes that torchrun has started with this one; alone without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield Shard()
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        with explaining_lost_peers():
            yield Shard(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextmanager
def explaining_lost_peers() -> Iterator[None]:
    """Says in one line that the block ended because another process did."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in _PEER_LOST):
            raise
        raise InputError("another process of this run has ended: its message says why, then start all again") from error


def local_rank() -> int:
    """The number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def global_rank() -> int:
    """The number of this process among all that torchrun has started; 0 is the one that speaks."""
    return int(os.environ.get("RANK", 0))


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


class WholeBatchNorm(TorchFunctionMode):
    """While it is entered, every BatchNorm in training takes its statistics over the slices of all processes.

    It takes the place of the function that all kinds of BatchNorm call (1d, 2d, 3d, timm's with an activation, with or
    without weights and running statistics); torch's SyncBatchNorm is for GPUs and knows some kinds only.

    Args:
        counts: whether this process's slices are true samples; otherwise it only keeps the others company.
    """

    def __init__(self, counts: bool = True):
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.batch_norm:
            call = _BATCH_NORM.bind(*args, **kwargs)
            call.apply_defaults()
            if call.arguments["training"]:
                return _whole_batch_norm(counts=self.counts, **call.arguments)
        return func(*args, **kwargs)


def _whole_batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    counts: bool,
) -> torch.Tensor:
    """As `torch.nn.functional.batch_norm` in training, (N, C, …) of all processes together."""
    features = input.to(torch.promote_types(input.dtype, torch.float32))
    others = [dim for dim in range(features.ndim) if dim != 1]
    per_channel = (1, -1) + (1,) * (features.ndim - 2)
    weight_of_own = float(counts)
    size = features.new_tensor([features.numel() / features.shape[1]])
    sums = sum_over_processes(weight_of_own * torch.cat((features.sum(others), size)))
    pixels = sums[-1]
    mean = sums[:-1] / pixels
    centred = features - mean.view(per_channel)
    variance = sum_over_processes(weight_of_own * centred.square().sum(others)) / pixels
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * pixels / (pixels - 1).clamp(min=1)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else weight * scale
    output = centred * scale.view(per_channel)
    return (output if bias is None else output + bias.view(per_channel)).to(input.dtype)
