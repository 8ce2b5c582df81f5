"""Memory that is freed and taken again with every slice."""

import ctypes

# Of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_MOST_KEPT = 2**30
# The most that a thread's own heap holds; with less at its end it is unmapped when all in it is free.
_HEAP_SIZE = 2**26


def keep_freed_memory() -> None:
    """Lets the process keep what it frees, up to 1 GiB, for what it takes next.

    Otherwise glibc maps large blocks and threads' heaps anew each time: the tensors of the next slice are made of
    pages that the system clears one by one, as they are first touched, and threads that map wait for one another.
    With another C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TOP_PAD, _HEAP_SIZE)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
