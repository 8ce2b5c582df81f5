"""Slices of a mask, one after the other → a file of bits from which any block can be read."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..errors import InputError
from ..files import open_reserved


@dataclass(frozen=True)
class BitMask:
    """A mask with eight voxels in a byte of a memory map: 0.27 GB for a kidney of 1012x1330x1598.

    Args:
        bits: (D, H, ceil(W / 8)) uint8.
        shape: D, H, W.
        vessel_voxels: how many are True.
    """

    bits: np.ndarray
    shape: tuple[int, int, int]
    vessel_voxels: int

    def block(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The voxels from corner `low` up to, not including, `high`, both (3,) int in the volume: bool."""
        (z0, y0, x0), (z1, y1, x1) = low.tolist(), high.tolist()
        first = x0 // 8
        packed = self.bits[z0:z1, y0:y1, first : -(-x1 // 8)]
        return np.unpackbits(packed, axis=-1)[..., x0 - 8 * first : x1 - 8 * first].view(np.bool_)


@contextmanager
def bit_mask(slices: Iterable[np.ndarray], shape: tuple[int, int, int], scratch_dir: Path | None) -> Iterator[BitMask]:
    """Packs slices into a file that is there as long as the block runs.

    Args:
        slices: D arrays (H, W) bool.
        shape: D, H, W.
        scratch_dir: where the file is made; the system's folder for temporary files when not given.

    Raises:
        InputError: a slice of another size.
        OutputError: the disk has no room.
    """
    depth, height, width = shape
    with TemporaryDirectory(dir=scratch_dir, prefix=".vessels-") as directory:
        bits = open_reserved(Path(directory) / "mask.npy", np.dtype(np.uint8), (depth, height, -(-width // 8)))
        vessel_voxels = 0
        for z, mask in enumerate(slices):
            if mask.shape != (height, width):
                raise InputError(f"the mask's slices must be of one size, {(height, width)}, found {mask.shape} at {z}")
            bits[z] = np.packbits(mask, axis=-1)
            vessel_voxels += int(np.count_nonzero(mask))
        yield BitMask(bits, shape, vessel_voxels)
