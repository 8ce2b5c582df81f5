"""How many inputs go through a model at once: as a batch on a GPU, each on a core of its own on a CPU."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch

from .stream import Item, Result, map_in_threads

LARGEST_BATCH = 16
MOST_THREADS = 8
_SHARE_OF_MEMORY = 0.5


def choose_batch_size(run: Callable[[], object], device: torch.device) -> int:
    """Chooses from memory: on a GPU as many inputs as fill half of it, a power of two, 16 at most.

    On a CPU one: its caches hold the features of one input, and the second makes both slower. See `choose_threads`.

    Args:
        run: passes one input through the model on that device.
        device: its whole memory counts, not what happens to be free, so that equal GPUs choose alike.
    """
    if device.type == "cpu":
        return 1
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    needed = max(1, torch.cuda.max_memory_allocated(device) - before)
    fitting = int(_SHARE_OF_MEMORY * torch.cuda.get_device_properties(device).total_memory / needed)
    return 2 ** (min(max(fitting, 1), LARGEST_BATCH).bit_length() - 1)


def make_batch(tensors: Sequence[torch.Tensor], batch_size: int) -> torch.Tensor:
    """Stacks inputs; the last one is repeated where they are too few.

    A batch is always of one shape, so nothing is compiled or allocated anew for a tail, and what a model says of
    an input does not depend on how many others there were.

    Args:
        tensors: at most `batch_size`, each (C, h, w).

    Returns:
        (batch_size, C, h, w).
    """
    if batch_size == 1:
        return tensors[0][None]
    return torch.stack([*tensors, *[tensors[-1]] * (batch_size - len(tensors))])


def choose_threads(device: torch.device) -> int:
    """How many batches go through a model side by side, each in a thread of its own: one on a GPU, which does that.

    On a CPU as many as torch has threads, 8 at most. A core that has an input to itself waits for no other, as it
    does within every layer where cores share one, and what else there is to do takes its turn in between.
    """
    return 1 if device.type == "cuda" else min(torch.get_num_threads(), MOST_THREADS)


def compute_in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """As `map_in_threads`, for a function that computes with torch: each thread has its share of the caller's cores."""
    cores = torch.get_num_threads()
    try:
        yield from map_in_threads(function, items, threads, partial(_compute_on, max(1, cores // threads)))
    finally:
        torch.set_num_threads(cores)  # what a thread sets becomes that of threads which start later


def _compute_on(cores: int) -> None:
    """Makes torch compute on so many threads where it is called from this one."""
    torch.get_num_threads()  # torch settles this when a thread first asks, which would undo the next line later
    torch.set_num_threads(cores)
