"""Mask → the voxels of its skeleton and how far they are from the wall, by blocks, equal to those in one piece.

Thinning looks at neighbours only, so a voxel's fate depends on the mask within a few vessel radii. Each block is
therefore thinned with a halo of twice the depth of the thickest vessel in it, and neighbouring blocks have to agree
about the voxels at their common face; those that do not are thinned again with twice the halo.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from ..errors import InputError
from ..progress import progress_bar
from .bit_mask import BitMask
from .thinning import thin

BLOCK_SIDE = 256
MAX_SIDE = 768  # voxels with the halo: about 5 GB
_FIRST_HALO, _MARGIN = 16, 8


class Block(NamedTuple):
    """A part of the volume: the voxels from corner `low` up to, not including, `high`, each (3,) int64."""

    low: np.ndarray
    high: np.ndarray


def blocks_of(shape: tuple[int, int, int], side: int = BLOCK_SIDE) -> Iterator[Block]:
    """Blocks that fill a volume, each of at most `side` voxels along each axis."""
    for corner in product(*(range(0, size, side) for size in shape)):
        low = np.array(corner, np.int64)
        yield Block(low, np.minimum(low + side, shape))


def grown(block: Block, halo: int, shape: tuple[int, int, int]) -> Block:
    """A block with so many voxels more on each side, as far as the volume goes."""
    return Block(np.maximum(block.low - halo, 0), np.minimum(block.high + halo, shape))


def skeleton_voxels(
    mask: BitMask, spacing: np.ndarray, *, block_side: int = BLOCK_SIDE, progress: bool = False
) -> np.ndarray:
    """Thins a mask to curves of single voxels.

    Cavities, background that is enclosed on all sides, are filled first: they would leave shells.

    Args:
        mask: the vessels; thinning takes what lies outside the volume for background, the distance does not.
        spacing: (3,) size of a voxel.
        block_side: voxels along the side of a block.
        progress: show a progress bar.

    Returns:
        (N, 4) float64: coordinates z y x in lexical order, and the distance to the nearest background voxel, from
        centre to centre, in the unit of the spacing.

    Raises:
        InputError: a vessel is so thick that its block would not fit into memory.
    """
    blocks = [*blocks_of(mask.shape, block_side)]
    with progress_bar("thinning", len(blocks), blocks, unit="block", shown=progress) as bar:
        found = [_thin_block(mask, block, _FIRST_HALO, spacing) for block in bar]
    halos = dict.fromkeys(_disagreeing(blocks, found, mask.shape), 2 * _FIRST_HALO)
    while halos:
        for at, halo in halos.items():
            found[at] = _thin_block(mask, blocks[at], halo, spacing)
        largest = max(mask.shape)
        again = _disagreeing(blocks, found, mask.shape)
        halos = {at: 2 * halos.get(at, _FIRST_HALO) for at in again if halos.get(at, 0) < largest}
    voxels = np.concatenate([within(block, each) for block, each in zip(blocks, found, strict=True)])
    return voxels[np.lexsort(voxels[:, 2::-1].T)]


def within(block: Block, points: np.ndarray) -> np.ndarray:
    """Those of (N, 3 or more) points whose first three coordinates, in voxels, lie in a block."""
    return points[((points[:, :3] >= block.low) & (points[:, :3] < block.high)).all(axis=1)]


def _thin_block(mask: BitMask, block: Block, halo: int, spacing: np.ndarray) -> np.ndarray:
    """The skeleton's voxels in a block and in one layer around it, (N, 4) float64."""
    while True:
        outer = grown(block, halo, mask.shape)
        vessel, low = _cropped(mask.block(*outer), outer.low)
        if not vessel.any():
            return np.empty((0, 4))
        vessel = _filled(vessel)
        is_whole = (outer.high - outer.low == mask.shape).all()
        needed = 2 * _depth(vessel) + _MARGIN
        if needed <= halo or is_whole:
            voxels = within(grown(block, 1, mask.shape), thin(vessel, low) + low)
            distance = _distance_to_wall(vessel, voxels - low, spacing)
            if is_whole or distance.max(initial=0) < (halo - 1) * spacing.min():
                return np.column_stack([voxels, distance])
            needed = 2 * halo  # voxels of unequal sides: the nearest wall may lie beyond the halo
        halo = needed
        _check_size(grown(block, halo, mask.shape))


def _cropped(vessel: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mask without the background around its vessels but for one layer, and where its corner lies then."""
    if not vessel.any():
        return vessel[:0], low
    box = []
    for axis in range(3):
        at = np.flatnonzero(vessel.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(max(int(at[0]) - 1, 0), int(at[-1]) + 2))
    return vessel[tuple(box)], low + [each.start for each in box]


def _depth(vessel: np.ndarray) -> int:
    """How many layers thinning can take off: the largest chessboard distance of a vessel's voxel to the background."""
    if vessel.all():
        return max(vessel.shape)
    return int(ndimage.distance_transform_cdt(vessel, "chessboard").max())


def _filled(vessel: np.ndarray) -> np.ndarray:
    """The mask with its cavities, background that does not reach the border through faces, filled."""
    labels, count = ndimage.label(~vessel)
    if not count:
        return vessel
    outside = np.zeros(count + 1, np.bool_)
    for axis in range(3):
        for end in (0, -1):
            outside[np.unique(labels.take(end, axis))] = True
    outside[0] = False
    return ~outside[labels]


def _distance_to_wall(vessel: np.ndarray, voxels: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The distance of (N, 3) vessel voxels to the nearest background voxel; infinite where there is none."""
    # Whatever the spacing, the nearest one has a face in common with a vessel's voxel.
    shell = ndimage.binary_dilation(vessel) & ~vessel
    if not len(voxels) or not shell.any():
        return np.full(len(voxels), np.inf)
    return KDTree(np.argwhere(shell) * spacing).query(voxels * spacing)[0]


def _check_size(block: Block) -> None:
    sides = block.high - block.low
    if sides.prod() > MAX_SIDE**3:
        raise InputError(
            f"the mask must hold vessels, found a region about {sides.max() // 4} voxels deep near the voxel (z, y, x) "
            f"= {tuple(((block.low + block.high) // 2).tolist())}: swap the two values of an inverted mask, or halve "
            f"the resolution of one with such vessels"
        )


def _disagreeing(blocks: list[Block], found: list[np.ndarray], shape: tuple[int, int, int]) -> set[int]:
    """The blocks whose skeleton and a neighbour's differ where both know it, in the two layers at their common face."""
    wrong = set()
    index = {tuple(block.low.tolist()): at for at, block in enumerate(blocks)}
    side = blocks[0].high - blocks[0].low
    for at, block in enumerate(blocks):
        for step in product((0, 1), repeat=3):
            other = index.get(tuple((block.low + side * step).tolist())) if any(step) else None
            if other is not None and not _agree(block, found[at], blocks[other], found[other], shape):
                wrong |= {at, other}
    return wrong


def _agree(block, voxels, other, other_voxels, shape) -> bool:
    a, b = grown(block, 1, shape), grown(other, 1, shape)
    common = Block(np.maximum(a.low, b.low), np.minimum(a.high, b.high))
    return np.array_equal(within(common, voxels)[:, :3], within(common, other_voxels)[:, :3])
