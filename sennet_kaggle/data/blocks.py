"""Labelled slices → blocks of neighbouring slices, and which of them are dense enough for planes across them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import Preprocessing
from ..errors import InputError, warn
from .bricks import LEAST_DEPTH, Block, BrickVolume, Wanted, is_dense, open_bricks, runs_of
from .names import consecutive_runs
from .planes import Plane, cut_label, cut_plane, cut_turned
from .volume import Volume

Places = Mapping[str, tuple[Volume, int]]
"""Volume and z of slices, by slice id."""


class BlockPlace(NamedTuple):
    """Where a slice lies."""

    block: Block
    z: int
    """Its number in the block."""


def check_planes(places: Places, planes: str, oblique: float) -> None:
    """Compares what the settings ask with what the kidneys can give, before anything is read.

    Args:
        places: the slices to learn from.
        planes: of the settings, as `oblique`.
        oblique: degrees.

    Raises:
        InputError: none of the kidneys has slices for planes across them.
    """
    if planes == "z" and not oblique:
        return
    longest = {}
    for volume in _volumes(places):
        zs = _kept(volume, (0,))
        numbers, known = _numbers(volume, zs), np.array([volume.slice_ids[z] in places for z in zs])
        runs = np.split(known, np.flatnonzero(np.diff(numbers) != 1) + 1)
        longest[volume.name] = max((len(run) for run in runs if is_dense(run)), default=0)
    asked = f"planes {planes}" if planes != "z" else f"oblique {oblique:g}"
    sparse = [name for name, length in longest.items() if not length]
    if len(sparse) == len(longest):
        raise InputError(
            f"{asked} needs a kidney with at least {LEAST_DEPTH} labelled slices that follow one another, found none "
            f"in {', '.join(sparse)}: choose planes z and oblique 0"
        )
    for name in sparse:
        warn(
            f"{name} gives windows along z only: {asked} needs at least {LEAST_DEPTH} labelled slices that follow one "
            f"another"
        )


def open_blocks(cache_dir: Path | str, places: Places, offsets: Sequence[int]) -> dict[tuple[str, int], BlockPlace]:
    """Opens the decoded slices of kidneys, see `open_bricks`, and finds where each slice lies in them.

    All labelled slices of a kidney are decoded, also those that are not to be learned from: another split finds them
    ready, and the windows across the slices show them.

    Args:
        cache_dir: where they are kept.
        places: the slices to learn from.
        offsets: the slices, counted from each of these, that a model sees with it.

    Returns:
        By kidney and z.

    Raises:
        InputError: as `open_bricks`.
    """
    volumes = _volumes(places)
    wanted = [Wanted(volume, tuple(_kept(volume, offsets))) for volume in volumes]
    found: dict[tuple[str, int], BlockPlace] = {}
    for each, bricks in zip(wanted, open_bricks(cache_dir, wanted), strict=True):
        found |= _blocks(each, bricks, places)
    return found


def cut_pair(block: Block, plane: Plane, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Takes a window out of a block.

    Returns:
        Grey values (C, roi_size, roi_size) for `slice_to_image`, and labels (K, roi_size, roi_size) as of `cut_label`.
    """
    offsets, roi_size = preprocessing.offsets if any(preprocessing.offsets) else (0,), preprocessing.roi_size
    if plane.turn is None:
        window = cut_plane(block, plane, roi_size, offsets)
        return window, cut_label(block, plane, roi_size, preprocessing.output_offsets)
    window, label = cut_turned(block, plane, roi_size, offsets, preprocessing.output_offsets)
    if preprocessing.intensity == "eight_bit" and block.bricks.dtype == "uint16":
        window = np.floor(window / 256)  # as `grey_levels` does with what is not turned
    return window, label


def _blocks(wanted: Wanted, bricks: BrickVolume, places: Places) -> dict[tuple[str, int], BlockPlace]:
    volume, zs = wanted
    known = np.array([volume.slice_ids[z] in places for z in zs])
    found: dict[tuple[str, int], BlockPlace] = {}
    for rows in runs_of(bricks, _numbers(volume, zs)):
        block = Block(bricks, rows, known[rows.start : rows.stop])
        found |= {(volume.name, zs[row]): BlockPlace(block, row - rows.start) for row in rows if known[row]}
    return found


def _volumes(places: Places) -> Iterable[Volume]:
    return {volume.name: volume for volume, _ in places.values()}.values()


def _kept(volume: Volume, offsets: Sequence[int]) -> list[int]:
    """The slices of a kidney to decode: those with a label, and those seen with them."""
    labelled = [z for z in range(len(volume)) if volume.is_labelled(z)]
    return sorted({z + offset for z in labelled for offset in offsets} & {*range(len(volume))})


def _numbers(volume: Volume, zs: Sequence[int]) -> list[int]:
    """A number per slice, greater by 1 than the one before where the file names say that they are neighbours."""
    numbers: list[int] = []
    for run in consecutive_runs([volume.image_paths[z].stem for z in zs]):
        first = numbers[-1] + 2 if numbers else 0
        numbers += range(first, first + len(run))
    return numbers
