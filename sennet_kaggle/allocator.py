"""Memory that is freed and taken again with every slice."""

import ctypes

# Of mallopt(3). Blocks of more than 32 MiB always go back to the system.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT, _MOST_KEPT = 32 * 2**20, 2**30


def keep_freed_memory() -> None:
    """Lets the process keep what it frees, up to 1 GiB, for what it takes next.

    Otherwise glibc gives large blocks back to the system, and each tensor of the next slice is made of pages that
    the system clears one by one, as they are first touched. With another C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
