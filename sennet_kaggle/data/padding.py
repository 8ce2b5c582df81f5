"""Slices → what of them was scanned: constant values that fill borders, corners or whole slices measure nothing.

A scan is often laid into a larger box: a cylinder in a square, slices of several lengths in one stack. The value of
what lies around it is arbitrary, so it must decide neither the range of grey values nor what the model sees.
"""

from collections.abc import Iterator
from itertools import chain

import cv2
import numpy as np

from ..errors import warn
from .slices import Slices

_SAMPLED_SLICES = 16
# Regions are looked for where a block, part of the border or a corner is constant: sides in pixels, part of a side.
_BLOCK = 8
_LEAST_STRETCH, _STRETCH_SHARE = 8, 1 / 4
_CORNER = 4
_LEAST_INSIDE = 0.005  # of the slice, for a region that does not reach its border
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
# Of the pixels beside a region, how many must lead up to its value for it to be tissue.
_CLIPPED_SHARE, _ROUNDED_SHARE = 1 / 6, 0.9
_STEEP = 1 / 16  # of the slice's contrast, for most of the pixels beside a region
_RAGGED = 1 / 16  # of its area is the outline of clipped noise, at least; that of padding is shorter
_SPARSELY = 31
_FOUND, _REJECTED, _NEW = 1, 2, 3  # OpenCV itself marks what lies beyond the border with 1
_PATCH = 8  # filling: the side of the blocks that are copied
_SPIKE_SHARE, _SPIKE_FACTOR, _SPIKE_NEIGHBOURS = 0.03, 8.0, 8


def find_padding(slice_: np.ndarray) -> np.ndarray:
    """Finds the pixels that were never measured.

    Padding is a region of one grey value, whatever it is, that hangs together by edges, is somewhere 15 pixels wide,
    and reaches the slice's border or takes up 0.5 % of the slice; or one along a quarter of a side or across the slice,
    however thin.
    Clipped or rounded tissue is none: the grey values around it lead up to its own.

    Args:
        slice_: (H, W) uint8 or uint16.

    Returns:
        (H, W) bool; all True for a slice of one value, all False where a side is shorter than 8 pixels.
    """
    height, width = slice_.shape
    regions = np.zeros((height + 2, width + 2), np.uint8)  # what OpenCV's flood fill marks, with a border of its own
    is_value: dict[int, np.ndarray] = {}
    for row, column in chain(_constant_blocks(slice_, regions), _constant_stretches(slice_)):
        if regions[row + 1, column + 1]:
            continue
        value = int(slice_[row, column])
        if value not in is_value:
            is_value[value] = np.equal(slice_, value, order="C").view(np.uint8)
        flags = 4 | cv2.FLOODFILL_MASK_ONLY | _NEW << 8
        area, _, _, (left, top, across, down) = cv2.floodFill(is_value[value], regions, (column, row), 0, 0, 0, flags)
        around = regions[top : top + down + 2, left : left + across + 2]  # with a pixel on each side
        is_new = around == _NEW
        reaches_border = left == 0 or top == 0 or left + across == width or top + down == height
        is_padding = reaches_border or area >= _LEAST_INSIDE * slice_.size
        if is_padding:
            beside = cv2.dilate(is_new.view(np.uint8), _CROSS) > is_new
            rows, columns = np.divmod(np.flatnonzero(beside & (around != _FOUND)), around.shape[1])
            beside = slice_[rows + (top - 1), columns + (left - 1)]
            is_extreme = value in (0, np.iinfo(slice_.dtype).max) and rows.size < _RAGGED * area
            is_padding = is_extreme or not _leads_up_to(value, beside, slice_)
        around[is_new] = _FOUND if is_padding else _REJECTED
    return regions[1:-1, 1:-1] == _FOUND


def fill_padding(slice_: np.ndarray) -> np.ndarray:
    """Continues what was scanned into the padding, smoothly, so that no model sees an edge there.

    Args:
        slice_: (H, W) uint8 or uint16.

    Returns:
        (H, W) of its dtype; the slice itself where it has no padding, or nothing else.
    """
    padding = find_padding(slice_)
    return slice_ if padding.all() or not padding.any() else _fill(slice_, padding)


def crop_padding(slice_: np.ndarray) -> np.ndarray:
    """Cuts a slice to the smallest box that holds all that was scanned, and fills what padding is left in its corners.

    Grey values counted over the result are those of the scan, whatever box it was laid into.

    Args:
        slice_: (H, W) uint8 or uint16.

    Returns:
        (h, w) of its dtype; the slice itself where it has no padding, or nothing else.
    """
    padding = find_padding(slice_)
    if padding.all() or not padding.any():
        return slice_
    rows, columns = (np.flatnonzero(~padding.all(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return _fill(slice_[box], padding[box]) if padding[box].any() else slice_[box]


def is_blank(slice_: np.ndarray) -> bool:
    """Whether a slice is nothing but one grey value."""
    return bool(slice_[0, 0] == slice_[-1, -1]) and bool((slice_ == slice_[0, 0]).all())


class Sample(list[np.ndarray]):
    """Slices sampled from a volume, and its name."""

    name = "the volume"


def sample_slices(slices: Slices) -> Sample:
    """Reads at most 16 slices spread evenly over a volume, the first and the last among them, without padding.

    Slices of padding alone do not count: where one is met, the sample is drawn anew without the run it belongs to.

    Args:
        slices: D arrays (H, W) uint8 or uint16; a Volume reads each on access.

    Returns:
        The sampled slices in order, as of `crop_padding`; of a volume of padding alone, its first slice. Their own
        sample is themselves.
    """
    if isinstance(slices, Sample):
        return slices
    sample = Sample(map(crop_padding, _read_sample(slices).values()))
    sample.name = getattr(slices, "name", Sample.name)
    if all(map(is_blank, sample)):
        warn(f"{sample.name}: expected a scan, found slices of one grey value each, in which there is nothing to see")
    return sample


def sampled_zs(slices: Slices) -> list[int]:
    """Which slices `sample_slices` takes."""
    return list(_read_sample(slices))


def warn_of_spikes(values: np.ndarray, name: str) -> None:
    """Warns of a grey value that is far more frequent than those beside it: clipping, or padding unlike any known.

    Args:
        values: a volume's grey values, uint8 or uint16.
        name: the volume's.
    """
    counts = np.bincount(values)  # a twentieth of the time of np.unique
    greys = np.flatnonzero(counts)
    counts = counts[greys]
    most = int(counts.argmax())
    first = max(0, most - _SPIKE_NEIGHBOURS)
    beside = np.delete(counts[first : most + _SPIKE_NEIGHBOURS + 1], most - first)
    if beside.size and counts[most] > max(_SPIKE_SHARE * values.size, _SPIKE_FACTOR * beside.mean()):
        warn(
            f"{name}: expected a scan's grey values, found {100 * counts[most] / values.size:.0f} % of them at exactly "
            f"{greys[most]}, which shifts the range that the model sees: crop the slices to what was scanned"
        )


def _read_sample(slices: Slices) -> dict[int, np.ndarray]:
    """The sampled slices by z, as they are."""
    blank: set[int] = set()
    while left := [z for z in range(len(slices)) if z not in blank]:
        spread = np.unique(np.linspace(0, len(left) - 1, _SAMPLED_SLICES).round().astype(int))
        sampled = {left[index]: slices[left[index]] for index in spread.tolist()}
        found = [z for z, slice_ in sampled.items() if is_blank(slice_)]
        if not found:
            return sampled
        for z in found:
            blank.update(() if z in blank else _blank_run(slices, z))
    return {0: slices[0]}


def _blank_run(slices: Slices, z: int) -> range:
    """The blank slices around slice z, which is one."""
    first, end = z, z + 1
    while first > 0 and is_blank(slices[first - 1]):
        first -= 1
    while end < len(slices) and is_blank(slices[end]):
        end += 1
    return range(first, end)


def _constant_blocks(slice_: np.ndarray, regions: np.ndarray) -> Iterator[tuple[int, int]]:
    """A pixel of each block of one value that lies in no region yet."""
    height, width = (length - length % _BLOCK for length in slice_.shape)
    blocks = slice_[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    # Two pixels of each leave next to none of a scan, and their diagonals even less.
    rows, columns = np.nonzero(blocks[:, 0, :, 0] == blocks[:, -1, :, -1])
    diagonals = blocks[rows[:, None], range(_BLOCK), columns[:, None], range(_BLOCK)]  # (N, 8)
    is_constant = (diagonals == diagonals[:, :1]).all(1)
    rows, columns = rows[is_constant], columns[is_constant]
    while rows.size:
        place = int(rows[0]) * _BLOCK, int(columns[0]) * _BLOCK
        if (blocks[rows[0], :, columns[0]] == slice_[place]).all():
            yield place
        left = regions[rows * _BLOCK + 1, columns * _BLOCK + 1] == 0
        left[0] = False
        rows, columns = rows[left], columns[left]


def _constant_stretches(slice_: np.ndarray) -> Iterator[tuple[int, int]]:
    """The first pixel of each long stretch of one value along the slice's border, and of each row or column of one."""
    last_row, last_column = slice_.shape[0] - 1, slice_.shape[1] - 1
    for row in (0, last_row):
        yield from ((row, column) for column in _long_stretches(slice_[row]))
    for column in (0, last_column):
        yield from ((row, column) for row in _long_stretches(slice_[:, column]))
    for row, rows in ((0, slice(_CORNER)), (last_row, slice(-_CORNER, None))):
        for column, columns in ((0, slice(_CORNER)), (last_column, slice(-_CORNER, None))):
            if min(slice_.shape) >= _BLOCK and (slice_[rows, columns] == slice_[row, column]).all():
                yield row, column
    if min(slice_.shape) >= _BLOCK:
        yield from ((row, 0) for row in _constant_lines(slice_))
        yield from ((0, column) for column in _constant_lines(slice_.T))


def _constant_lines(slice_: np.ndarray) -> list[int]:
    """Which rows hold one value alone."""
    first = slice_[:, 0]
    rows = np.flatnonzero((first == slice_[:, -1]) & (first == slice_[:, slice_.shape[1] // 2]))  # most are not
    return [row for row in rows.tolist() if (slice_[row] == first[row]).all()]


def _long_stretches(line: np.ndarray) -> list[int]:
    """Where long stretches of one value begin in a line."""
    starts = np.flatnonzero(np.r_[True, line[1:] != line[:-1]])
    lengths = np.diff(np.r_[starts, line.size])
    return starts[lengths >= max(_LEAST_STRETCH, _STRETCH_SHARE * line.size)].tolist()


def _leads_up_to(value: int, beside: np.ndarray, slice_: np.ndarray) -> bool:
    """Whether the grey values beside a region lead up to its own, as they do in a scan that was clipped or rounded.

    Where all of them are greater than the region's value, or all less, the scan was clipped there if many of them are
    much nearer to it than most are. Where they are both, it is a plateau among few grey values if most are the next.

    Args:
        value: the region's.
        beside: (N,) uint8 or uint16.
        slice_: the region's, which tells by how much its grey values differ at least.
    """
    if not beside.size:
        return False
    sample = slice_[::_SPARSELY, ::_SPARSELY].astype(np.int32)
    step = int(np.gcd.reduce(sample - value, axis=None))
    contrast = np.ptp(np.percentile(sample, (2, 98)))
    level = step if beside.dtype == np.uint8 or step > 1 else 0  # 16 bits are never so few that a scan has plateaus
    differences = beside.astype(np.int32) - value
    distances = abs(differences)
    if np.median(distances) > _STEEP * contrast:  # the edge of padding, even where it was blurred
        return False
    if (differences > 0).all() or (differences < 0).all():
        return (distances <= max(level, np.median(distances) / 2)).mean() > _CLIPPED_SHARE
    return (distances <= level).mean() > _ROUNDED_SHARE


def _fill(slice_: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """The slice with each padded pixel copied from the nearest block that was scanned, noise and all."""
    height, width = slice_.shape
    filled, is_padding = _in_blocks(slice_), _in_blocks(padding, True)
    padded = np.logical_or.reduce(is_padding, axis=1).view(np.uint64)[..., 0] > 0  # 8 of bool at once
    if padded.all():
        return np.where(padding, np.median(slice_[~padding]).astype(slice_.dtype), slice_)
    _, nearest = cv2.distanceTransformWithLabels(
        padded.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    block_of_label = np.zeros(nearest.max() + 1, np.int64)
    block_of_label[nearest[~padded]] = np.flatnonzero(~padded)
    rows, columns = np.nonzero(padded)
    sources = np.unravel_index(block_of_label[nearest[rows, columns]], padded.shape)
    lines = filled.view(f"V{_PATCH * filled.itemsize}")[..., 0]  # a block's 8 pixels at once
    copied = lines[sources[0], :, sources[1]].view(slice_.dtype).reshape(-1, _PATCH, _PATCH)
    kept = ~is_padding.view(f"V{_PATCH}")[rows, :, columns, 0].view(np.bool_).reshape(copied.shape)
    partly = kept.any((1, 2))
    copied[partly] = np.where(kept[partly], filled[rows[partly], :, columns[partly]], copied[partly])
    lines[rows, :, columns] = copied.view(lines.dtype)[..., 0]
    return filled.reshape(len(filled) * _PATCH, -1)[:height, :width]


def _in_blocks(plane: np.ndarray, outside: bool | None = None) -> np.ndarray:
    """A copy of (H, W) as (rows, 8, columns, 8) blocks; beyond the end a constant, or the border repeated."""
    beyond = [(0, -length % _PATCH) for length in plane.shape]
    wide = np.pad(plane, beyond, "edge") if outside is None else np.pad(plane, beyond, constant_values=outside)
    return np.ascontiguousarray(wide).reshape(wide.shape[0] // _PATCH, _PATCH, -1, _PATCH)
