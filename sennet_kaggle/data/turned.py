"""A plane turned in a block of decoded slices → the grey values between the voxels along it, and the nearest labels.

A window's pixels lie at `starts[row] + across[column]`. Some rows are worked on at a time, in arrays that are kept, for
fresh memory costs more than what is computed in it.
"""

import threading
from typing import NamedTuple

import numpy as np

from .bricks import EDGE, UNKNOWN, Block, brick_counts

_STRIP = 20_000
"""Pixels; what is needed of so many stays in the processor's cache."""
_kept = threading.local()


class Lines(NamedTuple):
    """Where the pixels of a window lie in a block, as (z, y, x)."""

    starts: np.ndarray
    """(rows, 3) float32."""
    across: np.ndarray
    """(columns, 3) float32."""


class _Strip(NamedTuple):
    """Arrays for the pixels of some rows, overwritten by each strip; three are for z, y and x.

    A place is a voxel's index in the flattened bricks from some layer on, in 32 bits where they suffice.
    """

    points: np.ndarray
    """(3, n) float32; in the memory of `lines`, which come after them."""
    parts: np.ndarray
    """(3, n) float32: how far a point lies from the voxels below it, 0..1."""
    below: np.ndarray
    """(3, n) int32 or int64: what the lower coordinate adds to a voxel's place."""
    above: np.ndarray
    nearest: np.ndarray
    """(n,) of that dtype: place of the nearest voxel."""
    row: np.ndarray
    """(n,) of that dtype, for any use, as the next two."""
    other: np.ndarray
    is_upper: np.ndarray
    """(n,) bool."""
    indices: np.ndarray
    """(n,) intp."""
    grey: np.ndarray
    """(n,) of the volume's dtype."""
    lines: np.ndarray
    """(4, n) float32: grey values between two voxels."""
    spare: np.ndarray
    """(n,) float32."""


def sample(block: Block, lines: Lines) -> tuple[np.ndarray, np.ndarray]:
    """Takes what a turned window shows.

    Args:
        block: the slices; beyond them and their sides the border is repeated, and nothing is known.
        lines: where the pixels lie.

    Returns:
        Grey values (rows, columns) float32, trilinear, and labels (rows, columns) uint8 as of `cut_label`.
    """
    starts, across = lines
    rows, columns = len(starts), len(across)
    grey, label = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.uint8)
    count, is_known = max(1, _STRIP // columns), bool(block.known.all())
    for first in range(0, rows, count):
        part = slice(first, first + count)
        ends = starts[part][[0, -1], None] + across[[0, -1]]  # (2, 2, 3); no point of the strip lies beyond these
        layer, kind = _layer_of(block, ends)
        strip = _strip_of(len(starts[part]) * columns, block.bricks.dtype, kind)
        unknown = _find_points(block, starts[part], across, ends, strip, is_known)
        _find_voxels(block, layer, strip)
        grey[part] = _trilinear(np.asarray(block.bricks.grey)[layer:].reshape(-1), strip).reshape(-1, columns)
        np.copyto(strip.indices, strip.nearest)
        found = np.asarray(block.bricks.label)[layer:].reshape(-1).take(strip.indices, mode="clip")
        if unknown is not None:
            found[unknown] = UNKNOWN
        label[part] = found.reshape(-1, columns)
    return grey, label


def _layer_of(block: Block, ends: np.ndarray) -> tuple[int, type[np.signedinteger]]:
    """The layer of bricks that the places of a strip count from, and their dtype."""
    _, height, width = brick_counts(block.bricks.shape)
    low, high = (np.clip(z, 0, block.shape[0] - 1) + block.rows.start for z in (ends[..., 0].min(), ends[..., 0].max()))
    layer = int(low) // EDGE
    voxels = (int(high) // EDGE + 2 - layer) * height * width * EDGE**3
    return layer, np.int32 if voxels < 2**31 else np.int64


def _strip_of(count: int, dtype: str, kind: type[np.signedinteger]) -> _Strip:
    """Arrays for so many pixels, those of the thread's last call where they fit."""
    kept: _Strip | None = getattr(_kept, "strip", None)
    if kept is None or len(kept.row) < count or kept.grey.dtype != dtype or kept.row.dtype != kind:
        lines = np.empty((5, count), np.float32)
        kept = _kept.strip = _Strip(
            points=lines[:3],
            parts=np.empty((3, count), np.float32),
            below=np.empty((3, count), kind),
            above=np.empty((3, count), kind),
            nearest=np.empty(count, kind),
            row=np.empty(count, kind),
            other=np.empty(count, kind),
            is_upper=np.empty(count, np.bool_),
            indices=np.empty(count, np.intp),
            grey=np.empty(count, dtype),
            lines=lines[:4],
            spare=lines[4],
        )
    return _Strip(*(each[..., :count] for each in kept))


def _find_points(
    block: Block, starts: np.ndarray, across: np.ndarray, ends: np.ndarray, strip: _Strip, is_known: bool
) -> np.ndarray | None:
    """Fills `points`, moved into the block where they lie beyond it.

    Returns:
        Where nothing is known, (n,) bool; None where all is.
    """
    unknown = None
    for axis, length in enumerate(block.shape):
        points = strip.points[axis]
        np.add(starts[:, None, axis], across[:, axis], out=points.reshape(len(starts), len(across)))
        low, high = ends[..., axis].min(), ends[..., axis].max()
        if low < -0.5 or high >= length - 0.5:
            beyond = (points < -0.5) | (points >= length - 0.5)
            unknown = beyond if unknown is None else unknown | beyond
        if axis == 0 and not is_known:
            nearest = np.floor(points + np.float32(0.5)).astype(np.intp)
            beyond = ~block.known.take(nearest, mode="clip")
            unknown = beyond if unknown is None else unknown | beyond
        if low < 0:
            np.maximum(points, 0, out=points)
        if high > length - 1:
            np.minimum(points, length - 1, out=points)
    return unknown


def _find_voxels(block: Block, layer: int, strip: _Strip) -> None:
    """Fills `parts`, `below`, `above` and `nearest`."""
    _, height, width = brick_counts(block.bricks.shape)
    strip.nearest.fill(0)
    for axis, (points, part, below, above) in enumerate(
        zip(strip.points, strip.parts, strip.below, strip.above, strict=True)
    ):
        step, first = (height * width, width, 1)[axis], block.rows.start - layer * EDGE if axis == 0 else 0
        low = strip.row
        np.trunc(points, out=part)
        np.copyto(low, part, casting="unsafe")
        np.subtract(points, part, out=part)
        np.add(low, first, out=low)
        _find_places(low, step, axis, below, strip.other)
        np.add(low, 1, out=low)
        np.minimum(low, first + block.shape[axis] - 1, out=low)
        _find_places(low, step, axis, above, strip.other)
        np.greater_equal(part, 0.5, out=strip.is_upper)
        np.subtract(above, below, out=low)
        np.multiply(low, strip.is_upper, out=low)
        np.add(low, below, out=low)
        np.add(strip.nearest, low, out=strip.nearest)


def _find_places(coordinate: np.ndarray, step: int, axis: int, places: np.ndarray, other: np.ndarray) -> None:
    """What coordinates on an axis, on which bricks are `step` bricks apart, add to a voxel's place."""
    inside = EDGE ** (2 - axis)
    np.right_shift(coordinate, 3, out=other)
    np.multiply(other, step * EDGE**3 - EDGE * inside, out=other)
    np.multiply(coordinate, inside, out=places)
    np.add(places, other, out=places)


def _trilinear(flat: np.ndarray, strip: _Strip) -> np.ndarray:
    """The grey values, (n,) float32."""
    below, above, parts = strip.below, strip.above, strip.parts
    lines = iter(strip.lines)
    for z in (below[0], above[0]):
        for y in (below[1], above[1]):
            line = next(lines)
            np.add(z, y, out=strip.row)
            for x, values in ((below[2], line), (above[2], strip.spare)):
                np.add(strip.row, x, out=strip.other)
                np.copyto(strip.indices, strip.other)
                flat.take(strip.indices, mode="clip", out=strip.grey)
                np.copyto(values, strip.grey)
            _between(line, strip.spare, parts[2])
    first, second, third, fourth = strip.lines
    _between(first, second, parts[1])
    _between(third, fourth, parts[1])
    return _between(first, third, parts[0])


def _between(low: np.ndarray, high: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Linear, in the memory of `low`; `high` is overwritten too."""
    np.subtract(high, low, out=high)
    np.multiply(high, part, out=high)
    return np.add(low, high, out=low)
