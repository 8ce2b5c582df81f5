"""Slices out of arrays on disk, in any order of axes: what is in memory is one slice, or one slab of chunks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError

SLAB_BYTES = 256 * 2**20
"""At most as much of a chunked array is held at once."""
_NUMBERS = "buif"
_LONGEST = 10**6  # voxels along an axis; a damaged header may claim any number


@dataclass(frozen=True)
class Layout:
    """Which axis of an array is which."""

    sizes: tuple[int, ...]
    axes: str
    """A letter per axis of the array: z, y and x, and others of length 1."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """D, H, W."""
        depth, height, width = (self.sizes[self.axes.index(name)] for name in "zyx")
        return depth, height, width

    def index(self, z: int | slice) -> tuple[int | slice, ...]:
        """What to ask the array for to have slice z, or several."""
        places: dict[str, int | slice] = {"z": z, "y": slice(None), "x": slice(None)}
        return tuple(places.get(name, 0) for name in self.axes)

    def to_zyx(self, part: np.ndarray) -> np.ndarray:
        """The answer with its axes in the order z, y, x, of which z is missing for a single slice."""
        wanted = "zyx"[-part.ndim :]
        kept = [name for name in self.axes if name in wanted]
        return part.transpose([kept.index(name) for name in wanted])


def check_layout(path: Path, sizes: tuple[int, ...], axes: str, dtype: np.dtype) -> Layout:
    """Checks that an array is a volume of grey values, whose axes these are.

    Args:
        path: of the file, for the message.
        sizes: of the array.
        axes: a letter per axis.
        dtype: of the array.

    Raises:
        InputError: another number of axes, one that is missing or twice, more than one channel or time, no voxel, or
            values that are no numbers.
    """
    if len(sizes) < 3:
        raise InputError(f"{path} must be a volume (D, H, W), found shape {sizes}: stack the slices first")
    if len(axes) != len(sizes):
        raise InputError(
            f"{path} must have {len(axes)} axes, {axes}, found shape {sizes}: name its axes with --axis-order"
        )
    if any(axes.count(name) != 1 for name in "zyx"):
        raise InputError(
            f"{path} must have the axes z, y and x once each, found {axes}: name its axes with --axis-order"
        )
    for name, size in zip(axes, sizes, strict=True):
        if name not in "zyx" and size != 1:
            raise InputError(f"{path} must be a single volume, found {size} along axis {name}: save one of them alone")
    if 0 in sizes:
        raise InputError(f"{path} must hold at least one voxel, found shape {sizes}")
    if max(sizes) > _LONGEST:
        raise InputError(f"{path} claims to have the shape {sizes}, too large for a scan: copy it again")
    if dtype.kind not in _NUMBERS:
        raise InputError(f"{path} must hold grey values, integers or floating point, found {dtype}: save it as uint16")
    return Layout(tuple(sizes), axes)


@dataclass(frozen=True)
class ArraySource:
    """An array that reads from disk what it is asked for."""

    open_array: Callable[[], Any]
    """Gives the array; asked for each slice, so that no memory map stays and fills the memory with its pages."""
    layout: Layout
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.layout.shape

    def read(self, z: int) -> np.ndarray:
        part = np.array(self.open_array()[self.layout.index(z)])
        return self.layout.to_zyx(part)


class ChunkedSource:
    """An array in chunks, of which neighbouring slices share: those read one after the other are read as slabs."""

    def __init__(self, array: Any, layout: Layout, chunk_depth: int):
        self.array, self.layout = array, layout
        self.dtype = np.dtype(array.dtype)
        height, width = layout.shape[1:]
        self.depth = max(1, min(chunk_depth, SLAB_BYTES // (height * width * self.dtype.itemsize)))
        self._first, self._slab, self._last = 0, np.empty((0, 0, 0)), -2

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.layout.shape

    def missing_chunks(self) -> tuple[int, int]:
        """How many chunks have no file, and how many there are.

        Zarr leaves out those of one value, and so does a copy that was broken off.
        """
        return self.array.nchunks - self.array.nchunks_initialized, self.array.nchunks

    def read(self, z: int) -> np.ndarray:
        if not self._first <= z < self._first + len(self._slab):
            first = z // self.depth * self.depth if z == self._last + 1 else z
            end = first + self.depth if z == self._last + 1 else z + 1
            self._slab = np.empty((0, 0, 0))  # before the next one is there
            part = np.asarray(self.array[self.layout.index(slice(first, min(end, self.shape[0])))])
            self._first, self._slab = first, self.layout.to_zyx(part)
        self._last = z
        return self._slab[z - self._first].copy()
