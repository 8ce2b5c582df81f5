"""Progress bars: one look for all long work, and none with --quiet."""

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from .errors import is_quiet


def progress_bar(
    label: str,
    total: int,
    items: Iterable[Any] | None = None,
    *,
    unit: str = "slice",
    shown: bool = True,
    **options: Any,
) -> tqdm:
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
    return tqdm(items, label, total, unit=unit, mininterval=1.0, disable=hidden, **options)
