"""Centre lines and mask → the volume, radius and true length of each segment.

Every voxel of the mask belongs to the point of a centre line that it is nearest to by power distance, d^2 - r^2
(Aurenhammer 1987), so that a thick vessel's voxels do not go to the thin ones that leave it. The volume of a stretch
and its length give the radius of a round tube. Counting voxels has no bias, unlike the distance to the nearest wall,
which at the radii of thin vessels is off by a good part of a voxel.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import KDTree

from ..progress import progress_bar
from .bit_mask import BitMask
from .blocks import BLOCK_SIDE, Block, blocks_of
from .centreline import Segment

_SIGMA = 2  # points along the centre line over which a radius is averaged, at least
_REACH = 1.5  # thickest radii and a few voxels: where a voxel's centre line may be
_MARGIN = 4
_AT_ONCE = 2**20  # voxels
_TIE = 1e-9
_EMPTY = 0.5  # of a line of single voxels' cross-section: where less is left, the voxels belong to another vessel


def measure_lumens(
    segments: Sequence[Segment],
    specks: np.ndarray,
    mask: BitMask,
    spacing: np.ndarray,
    *,
    block_side: int = BLOCK_SIDE,
    progress: bool = False,
) -> float:
    """Sets the volumes and radii of segments, and puts their free ends where they belong.

    Args:
        segments: changed in place.
        specks: (P, 4) z y x in the unit of the spacing, and distance to the wall: parts of the mask without a segment.
        mask: the vessels.
        spacing: (3,) size of a voxel.
        block_side: voxels along the side of a block.
        progress: show a progress bar.

    Returns:
        The volume of the specks.
    """
    points = np.concatenate([specks, *(np.column_stack([segment.points, _evened(segment)]) for segment in segments)])
    volumes = _volume_of_each(points, mask, spacing, block_side, progress)
    at = len(specks)
    for segment in segments:
        _measure(segment, volumes[at : at + len(segment.points)], spacing)
        at += len(segment.points)
    return float(volumes[: len(specks)].sum())


def _sigma(segment: Segment) -> float:
    """Over how many points of its centre line what is measured of a segment is averaged: about a radius."""
    return max(_SIGMA, float(np.median(segment.wall)) / float(segment.steps.mean()))


def _evened(segment: Segment) -> np.ndarray:
    """The distances to the wall without their jumps from voxel to voxel, which would shift voxels along the line."""
    return gaussian_filter1d(segment.wall, _sigma(segment), mode="nearest")


def _volume_of_each(
    points: np.ndarray, mask: BitMask, spacing: np.ndarray, block_side: int, progress: bool
) -> np.ndarray:
    """The volume of the voxels nearest to each of (S, 4) points with radii by power distance: (S,) float64."""
    counts = np.zeros(len(points), np.int64)
    if not len(points):
        return counts.astype(np.float64)
    # In a fourth coordinate, a thin vessel is farther away: d^2 - r^2 is then a plain distance but for a constant.
    thickest = float(points[:, 3].max())
    # A voxel between two points goes to the first, whatever the order in which a tree is searched.
    ties = _TIE * spacing.prod() ** (2 / 3) * np.arange(len(points))
    lifted = np.column_stack([points[:, :3], np.sqrt(thickest**2 - points[:, 3] ** 2 + ties)])
    reach = _REACH * thickest + _MARGIN * spacing.max()
    blocks = [*blocks_of(mask.shape, block_side)]
    for block in progress_bar("measuring", len(blocks), blocks, unit="block", shown=progress):
        low, high = block.low * spacing - reach, block.high * spacing + reach
        near = np.flatnonzero(((lifted[:, :3] >= low) & (lifted[:, :3] <= high)).all(axis=1))
        if len(near):
            counts[near] += _nearest_counts(mask, block, lifted[near], spacing)
    return counts * spacing.prod()


def _nearest_counts(mask: BitMask, block: Block, lifted: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """How many voxels of a block are nearest to each point, (S,) int64."""
    voxels = np.argwhere(mask.block(*block))
    tree, counts = KDTree(lifted), np.zeros(len(lifted), np.int64)
    for first in range(0, len(voxels), _AT_ONCE):
        places = (voxels[first : first + _AT_ONCE] + block.low) * spacing
        _, nearest = tree.query(np.column_stack([places, np.zeros(len(places))]))
        counts += np.bincount(nearest, minlength=len(lifted))
    return counts


def _measure(segment: Segment, volumes: np.ndarray, spacing: np.ndarray) -> None:
    """Sets a segment's radius at each point, and moves its free ends, from the volumes at its points (K,)."""
    segment.volume = float(volumes.sum())
    along = np.concatenate([[0], np.cumsum(segment.steps)])
    cell = np.convolve(segment.steps, [0.5, 0.5])  # what each point stands for of the length
    # Within the balls at its ends a branch lies in the lumen of the vessel that it comes from, and a tip is round.
    first, last = segment.wall[0], along[-1] - segment.wall[-1]
    core = np.flatnonzero((along > first) & (along < last))
    section = _cross_sections(volumes, cell, core, _sigma(segment))
    measured = section > _EMPTY * spacing.prod() / np.linalg.norm(spacing)
    if measured.any():
        radius = np.sqrt(section[measured] / math.pi)
        segment.radius = np.interp(along, along[core[measured]], radius)
    if len(core):
        first, last = along[core[0]], along[core[-1]]
    else:
        first, last = last, first  # a tail is what is beyond the other end's ball
    shifts = [
        _end_shift(volumes[tail].sum(), cell[tail].sum(), segment.radius[at], kind, float(spacing.mean()))
        for kind, at, tail in zip(segment.kinds, (0, -1), (along < first, along > last), strict=True)
    ]
    segment.points = _move_end(_move_end(segment.points, shifts[1])[::-1], shifts[0])[::-1]


def _cross_sections(volumes: np.ndarray, lengths: np.ndarray, core: np.ndarray, sigma: float) -> np.ndarray:
    """Volume over length at the points of a centre line, (K,) each, that are in its core, averaged along it."""
    volume, length = np.zeros_like(lengths), np.zeros_like(lengths)
    volume[core], length[core] = volumes[core], lengths[core]
    volume, length = (gaussian_filter1d(each, sigma, mode="constant") for each in (volume, length))
    return volume[core] / length[core]


def _end_shift(volume: float, length: float, radius: float, kind: str, voxel_side: float) -> float:
    """How much longer a vessel is than its centre line at one end, negative if shorter.

    Thinning ends somewhere near the tip. The end is put where a tube with this radius, flat at the volume's border and
    round elsewhere, has the volume of the tail, the part beyond the last point of which the radius was measured.
    """
    if kind not in ("free", "border") or not volume or not length:
        return 0.0
    cap = 0.0 if kind == "border" else 2 / 3 * radius
    shift = volume / (math.pi * radius**2) - cap - length
    return float(np.clip(shift, -length, radius + 2 * voxel_side))


def _move_end(points: np.ndarray, shift: float) -> np.ndarray:
    """Lengthens a line (K, 3) beyond its last point, or shortens it."""
    if shift > 0:
        direction = points[-1] - points[max(len(points) - 4, 0)]
        return np.concatenate([points[:-1], points[-1:] + shift * direction / np.linalg.norm(direction)])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    wanted = np.minimum(along, along[-1] + shift)
    return np.column_stack([np.interp(wanted, along, axis) for axis in points.T])
