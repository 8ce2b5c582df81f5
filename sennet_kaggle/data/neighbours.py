"""A stream of slices → stacks of each slice with its neighbours, for models that see several at once (2.5D)."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice, repeat

import numpy as np

from ..config import Preprocessing
from .intensity import hide_padding
from .padding import is_blank
from .slices import Slices


def stack_neighbours(slices: Iterable[np.ndarray], preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """Gives each slice of a stream the neighbours that the model sees with it (2.5D).

    Beyond either end of the volume its last slice is repeated; so is the last slice before one of another
    size, and before one of padding alone. As many slices are held as the offsets span.

    Args:
        slices: D arrays (H, W), in order.
        preprocessing: the settings of the model.

    Yields:
        D stacks (C, H, W) of the slices' dtype, one slice per offset; (1, H, W) where the offsets are all 0.
    """
    offsets = preprocessing.offsets if any(preprocessing.offsets) else (0,)
    before, after = -min(offsets), max(offsets)
    for _, run in groupby(slices, key=lambda slice_: (slice_.shape, is_blank(slice_))):
        window: deque[np.ndarray] = deque(maxlen=before + 1 + after)
        for slice_ in chain(run, repeat(None, after)):
            slice_ = window[-1] if slice_ is None else slice_
            window.extend([slice_] if window else [slice_] * (before + 1))
            if len(window) == window.maxlen:
                stack = [window[before + offset] for offset in offsets]
                yield np.stack(stack) if len(stack) > 1 else stack[0][None]


def read_stack(slices: Slices, z: int, preprocessing: Preprocessing) -> np.ndarray:
    """Reads one slice and its neighbours, as `stack_neighbours` would give them.

    Args:
        slices: D arrays (H, W) uint8 or uint16; a Volume reads each on access.
        z: which of them.
        preprocessing: the settings of the model.

    Returns:
        (C, H, W) of `hide_padding`; (1, H, W) where the offsets are all 0.
    """
    first, last = max(0, z + min(preprocessing.offsets)), min(len(slices) - 1, z + max(preprocessing.offsets))
    read = (hide_padding(slices[i], preprocessing) for i in range(first, last + 1))
    return next(islice(stack_neighbours(read, preprocessing), z - first, None))
