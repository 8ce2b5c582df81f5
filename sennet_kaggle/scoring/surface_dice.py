"""The competition's score: Surface Dice at tolerance 0, from two masks in memory or two streams of slices.

Corners of the lattice lie between voxels; the 2x2x2 voxels round a corner (zero outside the volume) are its
neighbourhood, their eight bits its code. A corner is surface when its code is neither 0 nor 255, and has the
area that marching cubes puts there. Slices are packed to one bit per voxel: whether a corner is surface is
found for 64 corners at once by ORs and ANDs of words, and codes are made only for the few groups of eight
corners that have surface. Corners are counted per code, in integers; areas come in once, at the end.
"""

from collections.abc import Iterable, Iterator
from itertools import product, zip_longest
from math import sqrt

import numpy as np

_CHUNK_GROUPS = 1 << 14  # groups of eight corners whose codes are made at once: bounds the memory


def surface_dice(mask_gt: np.ndarray, mask_pred: np.ndarray) -> float:
    """Surface Dice (Nikolov et al. 2018) at tolerance 0 and voxel spacing (1, 1, 1).

    The area of both masks' surfaces at corners that are surface in both, over the area of both surfaces;
    the areas of the two masks at such a corner need not be equal. Takes a few MiB besides the masks,
    however many slices they have.

    Args:
        mask_gt: label, (D, H, W) bool.
        mask_pred: prediction, (D, H, W) bool.

    Returns:
        0 (no corner in common) to 1 (equal). 1.0 when both masks are empty, where the reference package
        `surface-distance` gives NaN; 0.0 when one is.

    Raises:
        ValueError: the shapes differ, a mask is not bool, or not 3D.
    """
    check_masks(mask_gt, mask_pred)
    if mask_gt.ndim != 3:
        raise ValueError(f"masks must have shape (D, H, W), got {mask_gt.shape}")
    return surface_dice_of_slices(mask_gt, mask_pred)


def surface_dice_of_slices(slices_gt: Iterable[np.ndarray], slices_pred: Iterable[np.ndarray]) -> float:
    """`surface_dice` of two streams of slices, with the memory of a few slices.

    Args:
        slices_gt: label, the volume's slices in order, (H, W) bool each.
        slices_pred: prediction, as many slices of that shape.

    Returns:
        As `surface_dice`; 1.0 for two streams without a slice.

    Raises:
        ValueError: one stream is longer, shapes differ, or a slice is not bool.
    """
    score = SurfaceDice()
    for z, (slice_gt, slice_pred) in enumerate(zip_longest(slices_gt, slices_pred)):
        if slice_gt is None or slice_pred is None:
            ended = "slices_gt" if slice_gt is None else "slices_pred"
            raise ValueError(f"slices_gt and slices_pred must have the same length, but {ended} ended after {z}")
        score.update(slice_gt, slice_pred)
    return score.compute()


class SurfaceDice:
    """Surface Dice at tolerance 0 of one volume whose slices come one by one, in order of depth.

    The competition's score is the mean of `compute()` over the kidneys. For the score of all their surfaces
    together, add up their `counts` and call `dice_from_corner_counts`.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, 2, 256), np.int64)  # between slices
        self._first = np.zeros((2, 2, 256), np.int64)  # above the first slice
        self._last: np.ndarray | None = None  # the last slices, packed: (2, H + 2, words)

    def update(self, slice_gt: np.ndarray, slice_pred: np.ndarray) -> None:
        """Adds the next slice.

        Args:
            slice_gt: label, (H, W) bool.
            slice_pred: prediction, (H, W) bool.

        Raises:
            ValueError: the shapes differ from each other or from the slice before, or a slice is not bool.
        """
        check_masks(slice_gt, slice_pred)
        if self._last is None:
            if slice_gt.ndim != 2:
                raise ValueError(f"slices must have shape (H, W), got {slice_gt.shape}")
            self._shape = slice_gt.shape
        elif slice_gt.shape != self._shape:
            raise ValueError(f"slices must have one shape, got {slice_gt.shape} after {self._shape}")
        packed = _pack(slice_gt, slice_pred)
        if self._last is None:  # above the first slice there is background
            self._first += _corner_counts(np.zeros_like(packed), packed)
        else:
            self._counts += _corner_counts(self._last, packed)
        self._last = packed

    def compute(self) -> float:
        """The score of the slices so far, as `surface_dice`; more may follow."""
        return dice_from_corner_counts(self.counts)

    @property
    def counts(self) -> np.ndarray:
        """Surface corners, (2, 2, 256) int64: label or prediction; surface in this mask only or in both; code."""
        if self._last is None:
            return self._counts.copy()
        below = _corner_counts(self._last, np.zeros_like(self._last))  # background below the last slice
        return self._first + self._counts + below

    @property
    def inner_counts(self) -> np.ndarray:
        """As `counts`, without what closes the stack above its first slice and below its last one."""
        return self._counts.copy()


class SurfaceDiceOfRuns:
    """Surface Dice of a kidney of which some slices are scored, in order.

    Of a single run of consecutive slices it is that of the stack, as in the competition. Of several runs it is that of
    the layers between neighbouring slices alone: what lies between two runs is not known, so no surface is put there.
    """

    def __init__(self) -> None:
        self._run = SurfaceDice()
        self._before = np.zeros_like(self._run.counts)  # of the runs before this one
        self._slices = self.runs = 0

    def update(self, slice_gt: np.ndarray, slice_pred: np.ndarray, begins_run: bool = False) -> None:
        """Adds the next slice; arguments as those of `SurfaceDice.update`.

        Args:
            begins_run: whether slices lie between this one and the one before.
        """
        if begins_run or not self.runs:
            self._before += self._run.inner_counts
            self._run = SurfaceDice()
            self.runs += 1
        self._run.update(slice_gt, slice_pred)
        self._slices += 1

    def compute(self) -> float | None:
        """The score of the slices so far, as `surface_dice`; None where no two of several are neighbours."""
        if self.runs == 1:
            return self._run.compute()
        if self.runs == self._slices:
            return None
        return dice_from_corner_counts(self.inner_counts)

    @property
    def inner_counts(self) -> np.ndarray:
        """As of `SurfaceDice`, those of all runs together."""
        return self._before + self._run.inner_counts


def dice_from_corner_counts(counts: np.ndarray) -> float:
    """Surface Dice from the counts of `SurfaceDice.counts`, or from a sum of such counts."""
    other, common = counts.sum(axis=0) @ AREA_OF_CODE
    return float(common / (other + common)) if other + common else 1.0


def check_masks(mask_gt: np.ndarray, mask_pred: np.ndarray) -> None:
    """Raises a ValueError unless both masks are bool and have one shape."""
    if mask_gt.shape != mask_pred.shape:
        raise ValueError(f"masks must have one shape, got {mask_gt.shape} and {mask_pred.shape}")
    if mask_gt.dtype != np.bool_ or mask_pred.dtype != np.bool_:
        raise ValueError(f"masks must be bool, got {mask_gt.dtype} and {mask_pred.dtype}")


def sizes_of_codes(ndim: int, size_of_patch: dict[tuple[int, ...], float]) -> np.ndarray:
    """The size of the surface that marching cubes puts into each neighbourhood, for unit spacing.

    The rule (Lorensen & Cline 1987, as in Nikolov et al. 2018): voxels inside and outside swap roles when
    more than half are inside, so that complements are equal; every group of inside voxels that hang
    together along the cube's edges is cut off by one patch through the midpoints of the cut edges.

    Args:
        ndim: 3 for cubes (256 codes), 2 for squares (16 codes).
        size_of_patch: patch size of a group, found by how many neighbours within the group its voxels have
            (ascending); this tells the shapes of up to four corners of a cube apart.

    Returns:
        (2 ** 2 ** ndim,) float64, 0 for the first and last code. The neighbourhood's first voxel in C
        order is the code's highest bit.
    """
    corners = list(product((0, 1), repeat=ndim))
    sizes = np.zeros(2 ** len(corners))
    for code in range(len(sizes)):
        inside = {corner for bit, corner in enumerate(reversed(corners)) if code >> bit & 1}
        if len(inside) > len(corners) // 2:
            inside = set(corners) - inside
        sizes[code] = sum(
            size_of_patch[tuple(sorted(len(_neighbours(corner, group)) for corner in group))]
            for group in _edge_connected_groups(inside)
        )
    return sizes


def _edge_connected_groups(corners: set[tuple[int, ...]]) -> Iterator[set[tuple[int, ...]]]:
    left = set(corners)
    while left:
        group, reached = set(), {left.pop()}
        while reached:
            group |= reached
            left -= reached
            reached = set().union(*(_neighbours(corner, left) for corner in reached))
        yield group


def _neighbours(corner: tuple[int, ...], among: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    return {other for other in among if sum(a != b for a, b in zip(corner, other, strict=True)) == 1}


# The patches, each cut into the triangles of its largest triangulation. The triangles are half squares
# (1/2), halves of the rectangle that cuts off an edge (√2/4), and parts of the regular hexagon of side √½
# across the cube (six equilateral triangles of √3/8).
AREA_OF_CODE = sizes_of_codes(
    3,
    {
        (0,): sqrt(3) / 8,  # one voxel: a triangle
        (1, 1): sqrt(2) / 2,  # an edge: a rectangle
        (1, 1, 2): 1 / 2 + 3 * sqrt(3) / 8,  # two edges: half a square and half a hexagon
        (2, 2, 2, 2): 1.0,  # a face: a square
        (1, 1, 1, 3): 3 * sqrt(3) / 4,  # a voxel and its three neighbours: a hexagon
        (1, 1, 2, 2): sqrt(2) / 2 + sqrt(3) / 2,  # three edges in a twist: two half rectangles, 2/3 of a hexagon
    },
)


def _pack(slice_gt: np.ndarray, slice_pred: np.ndarray) -> np.ndarray:
    """(2, H + 2, words) uint64 with an empty row on either side: voxel x is bit x of its row."""
    height, width = slice_gt.shape
    # Words for width + 1 corners: a row's last bit is never a voxel, and none is carried into the next row.
    packed = np.zeros((2, height + 2, width // 64 + 1), np.uint64)
    for mask, rows in zip((slice_gt, slice_pred), packed.view(np.uint8), strict=True):
        rows[1:-1, : -(-width // 8)] = np.packbits(mask, axis=-1, bitorder="little")
    return packed


def _corner_counts(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Counts, as in `SurfaceDice.counts`, of the corners between two packed slices."""
    surface_gt, surface_pred = _surface_bits(above, below).view(np.uint8).reshape(2, -1)
    groups = np.flatnonzero((surface_gt | surface_pred) != 0)
    counts = np.zeros((2, 512), np.int64)
    for begin in range(0, groups.size, _CHUNK_GROUPS):
        chunk = groups[begin : begin + _CHUNK_GROUPS]
        in_both = _SPREAD.take(surface_gt.take(chunk) & surface_pred.take(chunk)).view(np.uint8) * np.uint16(256)
        for which in range(2):
            codes = _codes(above[which], below[which], chunk).view(np.uint8)
            counts[which] += np.bincount(codes + in_both, minlength=512)
    counts = counts.reshape(2, 2, 256)
    counts[:, :, [0, 255]] = 0  # neighbours of surface corners in their groups of eight
    return counts


def _surface_bits(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """(2, H + 1, words): bit x of row y tells whether the voxels x - 1 and x of rows y and y + 1 differ."""
    any_set, all_set = above | below, above & below
    any_set, all_set = any_set[:, :-1] | any_set[:, 1:], all_set[:, :-1] & all_set[:, 1:]
    any_set |= _left_neighbours(any_set).reshape(any_set.shape)
    all_set &= _left_neighbours(all_set).reshape(all_set.shape)
    return any_set & ~all_set


def _left_neighbours(words: np.ndarray) -> np.ndarray:
    """Bit x of the result is bit x - 1 of its row; a row's last bit is never set."""
    words = words.ravel()
    left = words << np.uint64(1)
    left[1:] |= words[:-1] >> np.uint64(63)
    return left


def _codes(above: np.ndarray, below: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The neighbourhood codes of groups of eight corners (a group is a byte's index), eight in a uint64."""
    codes = np.zeros(groups.size, np.uint64)
    for rows in (above, below):
        row_bytes = rows.view(np.uint8).ravel()
        for at in (groups, groups + rows.shape[1] * 8):
            # The nine voxels beside eight corners; at - 1 may be in the row before, or -1: empty in both cases.
            voxels = row_bytes.take(at) * np.uint16(2) + (row_bytes.take(at - 1) >> 7)
            codes <<= np.uint64(2)
            codes |= _PAIRS.take(voxels)
    return codes


# Bit i of a byte → byte i of a word; bits i, i + 1 of nine bits → byte i of a word (bytes and words: little-endian).
_SPREAD = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").view(np.uint64).ravel()
_PAIRS = np.tile(_SPREAD, 2) << np.uint64(1) | np.repeat(_SPREAD, 2)
