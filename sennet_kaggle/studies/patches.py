"""Labelled 3D patches of real tissue → Surface Dice in 3D of checkpoints, along z and along all three axes."""

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..checks import check_distinct
from ..config import DEFAULT_INFERENCE, Inference
from ..data.intensity import IntensityRange, measure_intensity
from ..errors import InputError, one_line
from ..files import check_output_dir, make_dir, write_whole
from ..inference.axes import mean_over_axes
from ..inference.ensemble import GreyValues, Score, ensemble_score
from ..inference.forward import to_probability
from ..inference.loading import load_predictors
from ..inference.predictor import Predictor
from ..progress import progress_bar
from ..rendering import markdown_table
from ..scoring.surface_dice import surface_dice

PATCHES_WITH_VESSELS = (2, 4, 8, 15)
"""Those of the 20 published patches that have more than a thousand vessel voxels."""
GREY_RANGES = {
    "kidney_1_dense": (20243, 29649),
    "kidney_2": (29784, 42380),
    "kidney_3_sparse": (18966, 21944),
}
"""Grey values of the competition's kidneys at the 10th and the 99.8th percentile."""
_PERCENTILES = (10.0, 99.8)
_TABLE = "patches.md"
Axes = Literal["z", "zyx"]


@dataclass(frozen=True)
class Patches:
    """Pieces of scans in 8 bits, and their labels."""

    grey: np.ndarray
    """(N, D, H, W) uint8, the high byte of the scan's 16 bits."""
    mask: np.ndarray
    """(N, D, H, W) bool."""


def score_patches(
    patches_path: Path | str,
    checkpoint_paths: Sequence[Path | str],
    output_dir: Path | str,
    thresholds: Sequence[float] = (0.2, 0.4),
    axes: Sequence[Axes] = ("z", "zyx"),
    indices: Sequence[int] = PATCHES_WITH_VESSELS,
    extra_scales: Sequence[float] = DEFAULT_INFERENCE.extra_scales,
) -> Path:
    """Writes `patches.md`: the Surface Dice of each checkpoint, and of all together, on each patch.

    Args:
        patches_path: see `open_patches`.
        checkpoint_paths: at least one.
        output_dir: made if missing.
        thresholds: probabilities above which a voxel is vessel, 0..1 (1 excluded).
        axes: of "z" and "zyx".
        indices: which patches, from 0.
        extra_scales: see `Inference`.

    Returns:
        The path of `patches.md`.

    Raises:
        InputError: a patch, threshold or checkpoint that is not there or of no use here.
    """
    _check_choices(thresholds, axes, indices)
    check_output_dir(output_dir, (_TABLE,))
    patches = open_patches(patches_path)
    count = len(patches.grey)
    missing = [index for index in indices if not 0 <= index < count]
    if missing:
        raise InputError(f"{patches_path} has {count} patches, 0 to {count - 1}, but {missing[0]} is asked for")
    inference = replace(DEFAULT_INFERENCE, extra_scales=tuple(extra_scales))
    inference.check()
    predictors = {along: load_predictors(checkpoint_paths, replace(inference, axes=along)) for along in axes}
    names = [Path(path).name for path in checkpoint_paths]
    for name, predictor in zip(names, predictors[axes[0]], strict=True):
        _check_percentiles(name, predictor)
    members = [*names, "together"] if len(names) > 1 else names
    scores = _score_all(patches, predictors, inference, thresholds, indices)
    rows = [
        [member, along, f"{threshold:g}", *(f"{value:.2f}" for value in (*values, np.mean(values)))]
        for number, member in enumerate(members)
        for along in axes
        for threshold in thresholds
        for values in [[scores[along, index][number, threshold] for index in indices]]
    ]
    header = ["checkpoint", "axes", "threshold", *(f"patch {index}" for index in indices), "mean"]
    path = make_dir(output_dir) / _TABLE
    write_whole(path, f"{markdown_table(header, rows)}\n{_remarks(patches, indices, inference)}".encode())
    return path


def open_patches(path: Path | str) -> Patches:
    """Reads patches from a .npz file with `x`, the grey values, and `y`, the labels.

    Raises:
        InputError: the file is missing, damaged or none, or has other arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"patches {path} are missing: expected a .npz file with x (grey values) and y (labels)")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} must be a .npz file with the arrays x and y, found a file of another kind")
    try:
        with np.load(path, allow_pickle=False) as file:
            found, names = {name: file[name] for name in ("x", "y") if name in file.files}, file.files
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path} must be a .npz file with the arrays x and y, found {one_line(error)}") from error
    if len(found) < 2:
        raise InputError(
            f"{path} must have the arrays x (grey values) and y (labels), found {', '.join(names[:8]) or 'none'}"
        )
    grey, mask = found["x"], found["y"]
    if grey.ndim != 4 or 0 in grey.shape or grey.shape != mask.shape or (grey.dtype, mask.dtype) != (np.uint8, bool):
        raise InputError(
            f"{path} must have x (N, D, H, W) uint8 and y of that shape, bool, found x {grey.shape} {grey.dtype} and "
            f"y {mask.shape} {mask.dtype}"
        )
    return Patches(grey, mask)


def predict_patch(patch: np.ndarray, predictor: Predictor, inference: Inference) -> np.ndarray:
    """Predicts a patch at its own size.

    A patch is too small a piece to have percentiles of its own: most of the organ's surroundings, and of the bright
    walls, are not in it. So its grey values are scaled as those of the kidney that they are nearest to.

    Args:
        patch: (D, H, W) uint8, the high byte of a scan's 16 bits.
        predictor: the model.
        inference: how it is run.

    Returns:
        (D, H, W) float32 in 0..1.
    """
    if predictor.preprocessing.intensity == "eight_bit":
        intensity = measure_intensity([], predictor.preprocessing)
    else:
        intensity = IntensityRange(*map(float, GREY_RANGES[nearest_kidney(patch)]))
    slices = [*_to_16_bits(patch)]
    score = ensemble_score([predictor], GreyValues([intensity], None), inference)
    if inference.axes == "z":
        return np.stack([_to_map(map_, inference) for map_ in score(slices)])
    means = mean_over_axes(slices, partial(_to_arrays, score), 1.0, inference.scratch_dir)
    return np.stack([_to_map(torch.from_numpy(mean), inference) for mean in means])


def nearest_kidney(patch: np.ndarray) -> str:
    """The kidney whose percentiles differ the least from the patch's own, both summed.

    Args:
        patch: (D, H, W) uint8, the high byte of a scan's 16 bits.

    Returns:
        A key of `GREY_RANGES`.
    """
    own = np.percentile(patch, _PERCENTILES) * 256
    return min(GREY_RANGES, key=lambda name: float(np.abs(own - GREY_RANGES[name]).sum()))


def _score_all(
    patches: Patches,
    predictors: Mapping[Axes, Sequence[Predictor]],
    inference: Inference,
    thresholds: Sequence[float],
    indices: Sequence[int],
) -> dict[tuple[str, int], dict[tuple[int, float], float]]:
    """By axes and patch, then by the model's number, after the last of which comes their mean, and threshold."""
    places = [(along, index) for along in predictors for index in indices]
    scores = {}
    for along, index in progress_bar("scoring patches", len(places), places, unit="patch"):
        how = replace(inference, axes=along)
        maps = [predict_patch(patches.grey[index], predictor, how) for predictor in predictors[along]]
        scores[along, index] = {
            (number, threshold): surface_dice(patches.mask[index], probability > threshold)
            for number, probability in enumerate([*maps, np.mean(maps, axis=0)])
            for threshold in thresholds
        }
    return scores


def _to_16_bits(patch: np.ndarray) -> np.ndarray:
    """As a scan's grey values, with a lowest bit that alternates from voxel to voxel in every direction.

    In 8 bits, tissue has plateaus of one value, which would be taken for padding and filled; so it has none.
    """
    z, y, x = np.ogrid[tuple(map(slice, patch.shape))]
    return patch.astype(np.uint16) * 256 + ((z + y + x) % 2).astype(np.uint16)


def _to_arrays(score: Score, planes: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    return (map_.numpy(force=True) for map_ in score(planes))


def _to_map(score: torch.Tensor, inference: Inference) -> np.ndarray:
    return to_probability(score, inference).numpy(force=True)


def _check_choices(thresholds: Sequence[float], axes: Sequence[Axes], indices: Sequence[int]) -> None:
    for name, values in (("thresholds", thresholds), ("axes", axes), ("indices", indices)):
        if not values:
            raise InputError(f"{name} must be at least one, found none: give some, or leave the option out")
        check_distinct(name, tuple(values))
    for threshold in thresholds:
        if not 0 <= threshold < 1:
            raise InputError(f"threshold must lie in 0..1 (1 excluded), got {threshold}")


def _check_percentiles(name: str, predictor: Predictor) -> None:
    preprocessing = predictor.preprocessing
    percentiles = (preprocessing.low_percentile, preprocessing.high_percentile)
    if preprocessing.intensity == "percentile" and percentiles != _PERCENTILES:
        raise InputError(
            f"checkpoint {name} scales grey values by the percentiles {percentiles[0]:g} and {percentiles[1]:g}, but "
            f"of the patches' kidneys only {_PERCENTILES[0]:g} and {_PERCENTILES[1]:g} are known: score it on whole "
            f"kidneys"
        )


def _remarks(patches: Patches, indices: Sequence[int], inference: Inference) -> str:
    kidneys = ", ".join(f"{index} as {nearest_kidney(patches.grey[index])}" for index in indices)
    vessels = ", ".join(f"{np.count_nonzero(patches.mask[index])} in {index}" for index in indices)
    depth, height, width = patches.grey.shape[1:]
    scales = " and ".join(f"{scale:g}" for scale in (1, *inference.extra_scales))
    return (
        f"Surface Dice at tolerance 0 in 3D of patches of {depth} x {height} x {width} voxels, at their own size, "
        f"views {inference.tta}, models of windows at scales {scales}.\n"
        f"Vessel voxels: {vessels}.\n"
        f"Grey values scaled as those of the kidney that they are nearest to: {kidneys}.\n"
        f"The patches are lossy, and a checkpoint may have learned from what they show: they choose nothing.\n"
    )
