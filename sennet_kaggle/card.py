"""What shipped checkpoints are and can do, as a page: data, settings, scores on a kidney not seen, time, size."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checkpoint import Card, read_card
from .config import SHIPPED_INFERENCE
from .errors import InputError
from .files import check_output_dir, make_dir, write_whole
from .metrics import dice_coefficient
from .predict import load_predictors, mean_threshold
from .predictor import Predictor
from .report import SegmentedSlice, figure_of_slices, figure_to_png, markdown_table
from .score import KidneyScorer
from .transforms import measure_intensity
from .volume import Volume, open_volume

_TIMED_SLICES = 5


def write_card(paths: Sequence[Path], kidney_dir: Path, output_dir: Path) -> Path:
    """Writes `checkpoint.md` and `checkpoint.png` about checkpoints that answer together.

    Args:
        paths: at least one.
        kidney_dir: a labelled kidney that none of them has learned from.
        output_dir: made if missing.

    Returns:
        The path of `checkpoint.md`.

    Raises:
        InputError: a checkpoint cannot be read, has learned from the kidney, or this has no label.
    """
    check_output_dir(output_dir, ("checkpoint.md", "checkpoint.png"))
    cards = {path: read_card(path) for path in paths}
    volume = open_volume(kidney_dir)
    zs = [z for z in range(len(volume)) if volume.is_labelled(z)]
    seen = {slice_id for card in cards.values() for slice_id in card.trained_on} & {*volume.slice_ids}
    if seen or not zs:
        raise InputError(
            f"{kidney_dir} must be a labelled kidney that no checkpoint has learned from, "
            + (f"but {min(seen)} was learned from" if seen else "but no slice has a label")
        )
    predictors = load_predictors(paths, SHIPPED_INFERENCE)
    members = {f"`{path.name}` alone": [one] for path, one in zip(paths, predictors, strict=True)}
    groups = members | {"**together**": predictors} if len(paths) > 1 else members
    masks = {name: segment(volume, zs, group) for name, group in groups.items()}
    rows = [[name, *_scores(volume, zs, each)] for name, each in masks.items()]
    header = ["", *(volume.slice_ids[z] for z in zs), "mean", "pooled", "without largest", "2D Surface Dice at 1 px"]
    make_dir(output_dir)
    together = list(masks.values())[-1]
    pictured = [SegmentedSlice(volume.slice_ids[z], volume[z], mask, volume.label(z)) for z, mask in together.items()]
    write_whole(output_dir / "checkpoint.png", figure_to_png(figure_of_slices(pictured)))
    text = (
        f"# The shipped checkpoint{'s' * (len(paths) > 1)}\n\n"
        + markdown_table(["", *(f"`{path.name}`" for path in paths)], _facts(cards, predictors))
        + f"\nDice on {volume.name}, which no model has seen, {SHIPPED_INFERENCE.tta} averaged:\n\n"
        + markdown_table(header, rows)
        + f"\n{_time(volume, zs, predictors)}\n\n![Image, prediction, label, errors](checkpoint.png)\n"
    )
    write_whole(output_dir / "checkpoint.md", text.encode())
    return output_dir / "checkpoint.md"


def segment(volume: Volume, zs: Sequence[int], predictors: Sequence[Predictor]) -> dict[int, np.ndarray]:
    """Masks (H, W) bool of single slices, by z: the mean of the models at the mean of their thresholds."""
    intensities = [measure_intensity(volume, predictor.preprocessing) for predictor in predictors]
    members = list(zip(predictors, intensities, strict=True))
    threshold = mean_threshold(predictors)
    return {
        z: np.mean([one.predict_slice(volume, z, each, SHIPPED_INFERENCE) for one, each in members], axis=0) > threshold
        for z in zs
    }


def _facts(cards: Mapping[Path, Card], predictors: Sequence[Predictor]) -> list[list[Any]]:
    """Rows of a fact's name and its value for each checkpoint."""
    parameters = [sum(each.numel() for each in predictor.model.parameters()) for predictor in predictors]
    facts: dict[str, list[Any]] = {
        "size, MB": [f"{path.stat().st_size / 1e6:.1f}" for path in cards],
        "parameters": [f"{number:,}" for number in parameters],
        "model": [f"{card.model} {card.model_arguments}" for card in cards.values()],
        "learned from": [", ".join(card.trained_on) for card in cards.values()],
        "threshold": [f"{card.threshold:g}" for card in cards.values()],
    }
    shown = ("seed", "loss", "epochs", "epoch_slices", "batch_size", "learning_rate", "window_size", "light", "noise")
    facts |= {name: [card.training.get(name, "") for card in cards.values()] for name in shown}
    return [[name, *values] for name, values in facts.items()]


def _scores(volume: Volume, zs: Sequence[int], masks: Mapping[int, np.ndarray]) -> list[str]:
    scorer, dice = KidneyScorer(), []
    for z in zs:
        mask_gt = volume.label(z)
        scorer.update(mask_gt, masks[z])
        dice.append(dice_coefficient(mask_gt, masks[z]))
    scores = scorer.compute()
    measures = (scores.dice_mean, scores.dice_pooled, scores.dice_without_largest, scores.surface_dice_2d_1px)
    return [f"{value:.3f}" for value in (*dice, *measures)]


def _time(volume: Volume, zs: Sequence[int], predictors: Sequence[Predictor]) -> str:
    seconds = []
    for z in np.resize(zs, _TIMED_SLICES).tolist():
        started = time.perf_counter()
        segment(volume, [z], predictors)
        seconds.append(time.perf_counter() - started)
    height, width = volume.slice_size(zs[0])
    return (
        f"A slice of {height} x {width} takes {np.median(seconds):.1f} s for all models and views together "
        f"({predictors[0].device}, {torch.get_num_threads()} threads, median of {_TIMED_SLICES}, with reading)."
    )
