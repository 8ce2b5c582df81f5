"""Memory that is freed and taken again with every slice."""

import ctypes

# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_MOST_KEPT = 2**30


def keep_freed_memory() -> None:
    """Lets the process keep what it frees, up to 1 GiB, for what it takes next.

    Otherwise glibc maps large blocks anew each time: the tensors of the next slice are made of pages that the system
    clears one by one, as they are first touched, and threads that map wait for one another. So nothing is mapped,
    and threads that start later have no heap of their own, which could not hold a block of more than 64 MiB. With
    another C library nothing happens.
    """
    try:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    except (OSError, TypeError):  # Windows cannot open the process itself as a library
        return
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
