"""Centre lines and mask → the volume, radius and true length of each segment.

Every voxel of the mask belongs to the point of a centre line that it is nearest to by power distance, d^2 - r^2
(Aurenhammer 1987), so that a thick vessel's voxels do not go to the thin ones that leave it. The volume of a stretch and
its length give the radius of a round tube. Counting voxels has no bias, unlike the distance to the nearest wall, which
at the radii of thin vessels is off by a good part of a voxel.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import KDTree
from tqdm import tqdm

from .bit_mask import BitMask
from .centreline import Segment
from .blocks import BLOCK_SIDE, Block, blocks_of

SCALE = 1.0
EV = True
_SIGMA = 2  # points along the centre line over which a radius is averaged
_REACH = 1.5  # thickest radii and a few voxels: where a voxel's centre line may be
_MARGIN = 4
_AT_ONCE = 2**20  # voxels


def measure_lumens(
    segments: Sequence[Segment],
    mask: BitMask,
    spacing: np.ndarray,
    free: set[int],
    border: set[int],
    lone_points: np.ndarray,
    *,
    block_side: int = BLOCK_SIDE,
    progress: bool = False,
) -> float:
    """Sets the volumes and radii of segments, and puts their free ends where they belong.

    Args:
        segments: changed in place.
        mask: the vessels.
        spacing: (3,) size of a voxel.
        free: nodes where a vessel ends.
        border: nodes where it leaves the volume.
        lone_points: (P, 4) z y x in the unit of the spacing, and distance to the wall: specks that have no segment.
        block_side: voxels along the side of a block.
        progress: show a progress bar.

    Returns:
        The volume of the specks.
    """
    centres = np.concatenate(
        [lone_points, *(np.column_stack([segment.points, _evened(segment)]) for segment in segments)]
    )
    volumes = _volume_of_each(centres, mask, spacing, block_side, progress)
    at = len(lone_points)
    for segment in segments:
        here = volumes[at : at + len(segment.points)]
        at += len(here)
        segment.volume = float(here.sum())
        _measure(segment, here, free, border, float(spacing.mean()))
    return float(volumes[: len(lone_points)].sum())


def _sigma(segment: Segment) -> float:
    """Over how many points of its centre line what is measured of a segment is averaged: about a radius."""
    return max(_SIGMA, SCALE * float(np.median(segment.wall)) / float(segment.steps.mean()))


def _evened(segment: Segment) -> np.ndarray:
    """The distances to the wall without their jumps from voxel to voxel, which would shift voxels along the line."""
    return gaussian_filter1d(segment.wall, _sigma(segment), mode="nearest") if EV else segment.wall


def _volume_of_each(
    centres: np.ndarray, mask: BitMask, spacing: np.ndarray, block_side: int, progress: bool
) -> np.ndarray:
    """The volume of the voxels nearest to each of (S, 4) points with radii by power distance: (S,) float64."""
    counts = np.zeros(len(centres), np.int64)
    if not len(centres):
        return counts.astype(np.float64)
    # In a fourth coordinate, a thin vessel is farther away: d^2 - r^2 is then a plain distance but for a constant.
    thickest = float(centres[:, 3].max())
    lifted = np.column_stack([centres[:, :3], np.sqrt(thickest**2 - centres[:, 3] ** 2)])
    reach = _REACH * thickest + _MARGIN * spacing.max()
    blocks = [*blocks_of(mask.shape, block_side)]
    for block in tqdm(blocks, desc="measuring", unit="block", mininterval=1.0, disable=not progress):
        near = np.flatnonzero(_is_near(block, lifted, spacing, reach))
        if len(near):
            counts += _nearest_counts(mask, block, lifted, near, spacing)
    return counts * spacing.prod()


def _is_near(block: Block, points: np.ndarray, spacing: np.ndarray, reach: float) -> np.ndarray:
    low, high = block.low * spacing - reach, block.high * spacing + reach
    return ((points[:, :3] >= low) & (points[:, :3] <= high)).all(axis=1)


def _nearest_counts(mask, block, lifted, near, spacing) -> np.ndarray:
    """How many voxels of a block are nearest to each of all points, of which only the `near` ones come into question."""
    voxels = np.argwhere(mask.block(*block))
    tree, counts = KDTree(lifted[near]), np.zeros(len(near), np.int64)
    for first in range(0, len(voxels), _AT_ONCE):
        places = (voxels[first : first + _AT_ONCE] + block.low) * spacing
        _, nearest = tree.query(np.column_stack([places, np.zeros(len(places))]))
        counts += np.bincount(nearest, minlength=len(near))
    result = np.zeros(len(lifted), np.int64)
    result[near] = counts
    return result


def _measure(segment: Segment, volumes: np.ndarray, free: set[int], border: set[int], voxel_side: float) -> None:
    """Sets a segment's radius at each point, and moves its free ends, from the volumes at its points (K,)."""
    along = np.concatenate([[0], np.cumsum(segment.steps)])
    cell = np.convolve(segment.steps, [0.5, 0.5])  # what each point stands for of the length
    # Within the balls at its ends a branch lies in the lumen of the vessel that it comes from, and a tip is round.
    core = (along > segment.wall[0]) & (along < along[-1] - segment.wall[-1])
    if core.any():
        sigma = _sigma(segment)
        sums = [gaussian_filter1d(np.where(core, each, 0), sigma, mode="constant") for each in (volumes, cell)]
        segment.radius = np.interp(along, along[core], np.sqrt(sums[0][core] / (math.pi * sums[1][core])))
    beyond = along > (along[core][-1] if core.any() else segment.wall[0]), along < (
        along[core][0] if core.any() else along[-1] - segment.wall[-1]
    )
    shifts = [
        _end_shift(volumes, cell, tail, segment.radius[at], node, free, border)
        for node, at, tail in zip(segment.nodes, (0, -1), beyond[::-1], strict=True)
    ]
    for turn, shift in zip((-1, 1), shifts, strict=True):
        most = segment.radius[0 if turn < 0 else -1] + 2 * voxel_side
        segment.points = _move_end(segment.points[::turn], min(shift, most))[::turn]


def _end_shift(volumes, cell, tail, radius, node, free, border) -> float:
    """How much longer a vessel is than its centre line at one end, negative if shorter.

    Thinning ends somewhere near the tip. The end is put where a tube with this radius, flat at the volume's border and
    round elsewhere, has the volume of the tail, the part beyond the last point of which the radius was measured.
    """
    if node not in free | border or not tail.any() or tail.all():
        return 0.0
    cap = 0 if node in border else 2 / 3 * radius
    length = cell[tail].sum()
    return float(max(volumes[tail].sum() / (math.pi * radius**2) - cap - length, -length))


def _move_end(points: np.ndarray, shift: float) -> np.ndarray:
    """Lengthens a line (K, 3) beyond its last point, or shortens it."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    if shift <= 0:
        wanted = np.minimum(along, along[-1] + shift)
        return np.column_stack([np.interp(wanted, along, axis) for axis in points.T])
    back = points[max(len(points) - 4, 0)]
    direction = (points[-1] - back) / np.linalg.norm(points[-1] - back)
    return np.concatenate([points[:-1], points[-1:] + shift * direction])
