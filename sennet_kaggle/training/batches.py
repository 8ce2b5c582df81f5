"""Slices of an epoch → the batches of its optimizer steps, and each one's passes, by process."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from accelerate import Accelerator

from ..config import Training


class Pass(NamedTuple):
    """One process's part of a forward pass."""

    own: list[int]
    """Indices of its slices."""
    share: float
    """The part of the batch that the pass of all processes makes."""
    counts: bool
    """Whether the slices are this process's own; otherwise it only takes part."""


def plan_batches(training: Training, slices: int, epoch: int) -> list[np.ndarray]:
    """The indices of each optimizer step of an epoch, drawn by (seed, epoch) alone, in rounds over all slices.

    A later round counts on from the number of slices, so that a slice drawn again is varied anew.

    Args:
        training: seed, batch_size and epoch_slices.
        slices: how many there are.
        epoch: from 1.
    """
    rng = np.random.default_rng((training.seed, epoch))
    wanted = training.epoch_slices or slices
    rounds = [start + rng.permutation(slices) for start in range(0, wanted, slices)]
    order = np.concatenate(rounds)[:wanted]
    return np.split(order, range(training.batch_size, wanted, training.batch_size))


def passes(batch: np.ndarray, accumulate: int, accelerator: Accelerator) -> Iterator[Pass]:
    """Splits one optimizer step into forward passes, and each of those among the processes.

    Every process takes part in every pass, for the others wait for it: where there is no slice left for it, it takes
    one that does not count.
    """
    for part in np.array_split(batch, min(accumulate, len(batch))):
        own = part[accelerator.process_index :: accelerator.num_processes]
        yield Pass((own if len(own) else part[:1]).tolist(), len(part) / len(batch), len(own) > 0)
