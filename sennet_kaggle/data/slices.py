"""What the code asks of the slices of a volume: that they can be counted, read by number and gone through in order."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np


class Slices(Protocol):
    """D arrays (H, W) uint8 or uint16: a Volume, which reads each on access, a list, or an array (D, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, z: int, /) -> np.ndarray: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...
