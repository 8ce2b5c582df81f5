"""Progress bars: one look for all long work, and none with --quiet."""

import os
import threading
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from .errors import is_quiet


class Bar(tqdm):
    """tqdm with a lock of this process alone.

    tqdm's own is a semaphore that forked processes share: a process killed while it draws would never release it, and
    every other one would wait forever.
    """


def _renew_lock() -> None:
    Bar.set_lock(threading.RLock())


_renew_lock()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)  # a thread that the child does not have may hold it


def progress_bar(
    label: str,
    total: int,
    items: Iterable[Any] | None = None,
    *,
    unit: str = "slice",
    shown: bool = True,
    **options: Any,
) -> Bar:
    """A bar on standard error with its label, its count and an estimate of the time left.

    Args:
        label: what is being done, such as "segmenting".
        total: how many there are.
        items: what to pass through it; without them the caller updates it.
        unit: what is counted, in the singular.
        shown: False for the processes of torchrun that leave it to the first one.
        options: further ones of `tqdm`.
    """
    hidden = not shown or is_quiet()
    return Bar(items, label, total, unit=unit, mininterval=1.0, disable=hidden, **options)
