"""What checkpoints are and can do, as a page: data, settings, scores on a kidney not learned from, time, size."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import DEFAULT_INFERENCE
from ..data.bits import fetch_mask
from ..data.splits import labelled_slices
from ..data.volume import Volume, open_volume
from ..errors import InputError
from ..files import SHIPPED_DIR, check_output_dir, make_dir, write_whole
from ..inference.ensemble import mean_threshold
from ..inference.loading import load_predictors
from ..inference.predict import predict_probabilities
from ..inference.predictor import Predictor
from ..models.checkpoint import Card, read_card
from ..models.identity import what_was_seen
from ..progress import progress_bar
from ..rendering import figure_to_png, markdown_table
from ..scoring.metrics import dice_coefficient
from ..scoring.score import KidneyScorer, Scores
from ..submission.provenance import hash_file
from .outlines import figure_of_slices
from .report import SegmentedSlice, spread

_TIMED_SLICES = 5
_MOST_COLUMNS = 12
"""Slices that the table has columns for; of more it has those that are drawn."""


@dataclass(frozen=True)
class Validation:
    """What checkpoints that answer together made of a kidney."""

    dice: dict[str, float]
    """By slice id."""
    scores: Scores
    drawn: list[SegmentedSlice]
    """A few of the slices."""


def write_card(paths: Sequence[Path], kidney_dir: Path, output_dir: Path) -> Path:
    """Writes `checkpoint.md` and `checkpoint.png` about checkpoints that answer together.

    Args:
        paths: at least one.
        kidney_dir: a labelled kidney that none of them has learned from, in the `train/` of a data folder.
        output_dir: made if missing.

    Returns:
        The path of `checkpoint.md`.

    Raises:
        InputError: a checkpoint cannot be read, has learned from the kidney, or this has no label.
    """
    check_output_dir(output_dir, ("checkpoint.md", "checkpoint.png"))
    cards = {path: read_card(path) for path in paths}
    volume = open_volume(kidney_dir)
    places = labelled_slices([volume])
    seen = what_was_seen(list(cards.values()), places, kidney_dir.parent.parent)
    if seen.learned or not places:
        first, twin = next(iter(seen.learned.items()), ("", ""))
        raise InputError(
            f"{kidney_dir} must be a labelled kidney that no checkpoint has learned from, "
            + (f"but {first} was learned from" if places else "but no slice has a label")
            + (f", as {twin}" if first != twin else "")
        )
    predictors = load_predictors(paths, DEFAULT_INFERENCE)
    members = {f"`{path.name}` alone": [one] for path, one in zip(paths, predictors, strict=True)}
    groups = members | {"**together**": predictors} if len(paths) > 1 else members
    zs = [z for _, z in places.values()]
    scored = {name: validate(volume, zs, group) for name, group in groups.items()}
    together = list(scored.values())[-1]
    shown = list(places) if len(places) <= _MOST_COLUMNS else [each.slice_id for each in together.drawn]
    rows = [[name, *_cells(each, shown)] for name, each in scored.items()]
    header = ["", *shown, "mean", "pooled", "without largest", "2D Surface Dice at 1 px"]
    how = DEFAULT_INFERENCE.describe(f"{mean_threshold(predictors):g}", [card.model for card in cards.values()])
    shipped = all(path.resolve().parent == SHIPPED_DIR for path in paths)
    make_dir(output_dir)
    write_whole(output_dir / "checkpoint.png", figure_to_png(figure_of_slices(together.drawn)))
    text = (
        f"# {'The shipped checkpoint' if shipped else 'Checkpoint'}{'s' * (len(paths) > 1)}\n\n"
        + markdown_table(["", *(f"`{path.name}`" for path in paths)], _facts(cards, predictors))
        + f"\nDice on {volume.name}, {seen.claim()}, over {len(places)} labelled slices; {how}:\n\n"
        + markdown_table(header, rows)
        + f"\n{_time(volume, zs, predictors)}\n\n![Slices, their vessels outlined, and a close look](checkpoint.png)\n"
    )
    write_whole(output_dir / "checkpoint.md", text.encode())
    return output_dir / "checkpoint.md"


def validate(volume: Volume, zs: Sequence[int], predictors: Sequence[Predictor]) -> Validation:
    """Scores models that answer together, as `predict` runs them; a slice is let go before the next one comes."""
    threshold, scorer, dice, drawn = mean_threshold(predictors), KidneyScorer(), {}, []
    shown, probabilities = spread(zs), predict_probabilities(volume, predictors, DEFAULT_INFERENCE, zs)
    bar = progress_bar("validating", len(zs), zip(zs, probabilities, strict=True))
    for z, (slice_id, probability) in bar:
        mask_gt, mask = volume.label(z), fetch_mask(probability, threshold, DEFAULT_INFERENCE.hysteresis)
        scorer.update(mask_gt, mask)
        dice[slice_id] = dice_coefficient(mask_gt, mask)
        if z in shown:
            drawn.append(SegmentedSlice(slice_id, volume[z], mask, mask_gt))
    return Validation(dice, scorer.compute(), drawn)


def _facts(cards: Mapping[Path, Card], predictors: Sequence[Predictor]) -> list[list[Any]]:
    """Rows of a fact's name and its value for each checkpoint."""
    parameters = [sum(each.numel() for each in predictor.model.parameters()) for predictor in predictors]
    facts: dict[str, list[Any]] = {
        "sha256": [hash_file(path)[:12] for path in cards],
        "size, MB": [f"{path.stat().st_size / 1e6:.1f}" for path in cards],
        "parameters": [f"{number:,}" for number in parameters],
        "model": [f"{card.model} {card.model_arguments}" for card in cards.values()],
        "learned from": [", ".join(card.trained_on) for card in cards.values()],
        "threshold": [f"{card.threshold:g}" for card in cards.values()],
    }
    shown = ("seed", "loss", "epochs", "epoch_slices", "batch_size", "learning_rate", "window_size", "light", "noise")
    facts |= {name: [card.training.get(name, "") for card in cards.values()] for name in shown}
    return [[name, *values] for name, values in facts.items()]


def _cells(scored: Validation, shown: Sequence[str]) -> list[str]:
    scores = scored.scores
    measures = (scores.dice_mean, scores.dice_pooled, scores.dice_without_largest, scores.surface_dice_2d_1px)
    return [f"{value:.3f}" for value in (*(scored.dice[slice_id] for slice_id in shown), *measures)]


def _time(volume: Volume, zs: Sequence[int], predictors: Sequence[Predictor]) -> str:
    seconds = []
    for z in np.resize(zs, _TIMED_SLICES).tolist():
        started = time.perf_counter()
        list(predict_probabilities(volume, predictors, DEFAULT_INFERENCE, [z]))
        seconds.append(time.perf_counter() - started)
    height, width = volume.slice_size(zs[0])
    threads = torch.get_num_threads()
    return (
        f"A slice of {height} x {width} takes {np.median(seconds):.1f} s for all models, views and scales together "
        f"({predictors[0].device}, {threads} thread{'s' * (threads != 1)}, median of {_TIMED_SLICES}, with reading)."
    )
