"""The voxel size that checkpoints were trained at, and how far a scan's is from it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np

from ..config import Inference
from ..errors import InputError, say, warn
from .checkpoint import Card, read_card

# Micrometres, as the competition gives them.
VOXEL_SIZES_UM = {
    "kidney_1_dense": 50.0,
    "kidney_1_voi": 5.2,
    "kidney_2": 50.0,
    "kidney_3_dense": 50.16,
    "kidney_3_sparse": 50.16,
    "kidney_5": 50.28,
    "kidney_6": 63.08,
}
_ALIKE = 1.05  # voxel sizes of training that may be averaged: the largest over the smallest
_NEARLY = 0.05  # so far from 1 a scale that is found by itself stays 1: the model has learned from zoomed windows
_MOST_SCALED = 10
_FAR = 2
_ROUNDING = 1e-4  # what file formats lose of a size


def scaled_to_training(inference: Inference, voxel_size_um: float, checkpoint_paths: Sequence[Path | str]) -> Inference:
    """The settings with the scale that brings voxels of a size to that of training.

    Raises:
        InputError: the settings have a scale of their own, or the size is too far from that of training, or as
            `training_voxel_size`.
    """
    if inference.scale not in (1, "auto") or inference.scales:
        raise InputError("voxel_size_um and the inference's scale both say how to resize: give one of them")
    trained_um = training_voxel_size(checkpoint_paths)
    number = isinstance(voxel_size_um, int | float | np.integer | np.floating)
    if not number or not trained_um / _MOST_SCALED <= voxel_size_um <= trained_um * _MOST_SCALED:
        raise InputError(
            f"voxel_size_um must be a size in micrometres within a factor of {_MOST_SCALED} of the {trained_um:g} that "
            f"the checkpoint was trained at, found {voxel_size_um}"
        )
    tolerance = _NEARLY if inference.scale == "auto" else _ROUNDING
    return replace(inference, scale=_scale(voxel_size_um, trained_um, tolerance))


def settle_scale(inference: Inference, names: Iterable[str], checkpoint_paths: Sequence[Path | str]) -> Inference:
    """The settings with a scale for each kidney in place of `scale` auto; others stay as they are.

    A kidney that is not the competition's, or nearly as those learned from, is seen as it is; a line says which ones
    are resized, and of which nothing is known.

    Args:
        inference: a scale in `scales` goes before.
        names: of the kidneys.
        checkpoint_paths: the models.

    Raises:
        InputError: as `training_voxel_size`.
    """
    if inference.scale != "auto":
        return inference
    trained_um = training_voxel_size(checkpoint_paths)
    scales = dict(inference.scales)
    for name in names:
        size = VOXEL_SIZES_UM.get(name)
        if name in scales:
            continue
        if size is None:
            say(f"{name}: its voxel size is not known, so the model sees it as it is (scale 1)")
        elif (scale := _scale(size, trained_um, _NEARLY)) != 1:
            scales[name] = scale
            say(f"{name}: voxels of {size:g} µm, those learned from have {trained_um:g} µm: scale {scale:.4g}")
    return replace(inference, scale=1.0, scales=scales)


def training_voxel_size(checkpoint_paths: Sequence[Path | str]) -> float:
    """The voxel size of the slices that checkpoints learned from, in micrometres.

    Raises:
        InputError: one of them does not say what it learned from, or learned from other kidneys than the
            competition's, or from kidneys of very different voxel sizes.
    """
    sizes = [size for path in checkpoint_paths for size in _sizes_of(path, read_card(path))]
    if max(sizes) > _ALIKE * min(sizes):
        raise InputError(
            f"a scale from voxel sizes needs one voxel size of training, found {min(sizes):g} to {max(sizes):g}: give "
            f"the scale as a number, your voxel size over the one you mean"
        )
    return mean(sizes)


def _scale(voxel_size_um: float, trained_um: float, tolerance: float) -> float:
    """The one size over the other, 1 where it is as near to that."""
    scale = voxel_size_um / trained_um
    if not 1 / _FAR <= scale <= _FAR:
        warn(
            f"voxels of {voxel_size_um:g} µm are far from the {trained_um:g} µm that the checkpoint was trained at: "
            f"look at the masks before you trust them, or train on such scans"
        )
    return 1.0 if abs(scale - 1) < tolerance else scale


def _sizes_of(path: Path | str, card: Card) -> list[float]:
    """The size that a card names, or those of the competition's kidneys that it names."""
    if card.voxel_size_um is not None:
        return [card.voxel_size_um]
    kidneys = {slice_id.rpartition("_")[0] for slice_id in card.trained_on}
    unknown = sorted(kidneys - VOXEL_SIZES_UM.keys())
    if not card.says_what_it_learned or unknown:
        found = unknown[0] if unknown else "nothing"
        raise InputError(
            f"a scale from voxel sizes needs a checkpoint that learned from the competition's kidneys, whose size is "
            f"known; {path} names {found}: give the scale as a number, your voxel size over that of training"
        )
    return [VOXEL_SIZES_UM[kidney] for kidney in sorted(kidneys)]
