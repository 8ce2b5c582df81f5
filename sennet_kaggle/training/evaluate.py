"""A model on held-out slices at their own size: Dice, the threshold, pictures."""

import copy
from collections.abc import Iterator
from itertools import groupby, islice, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn

from ..config import DEFAULT_INFERENCE, THRESHOLDS, Training
from ..data.bits import fetch_mask
from ..data.dataset import SliceDataset
from ..data.names import consecutive_runs
from ..files import write_whole
from ..inference.loading import create_predictor, load_predictors
from ..inference.predict import predict_probabilities
from ..inference.predictor import Predictor
from ..models.checkpoint import read_card
from ..rendering import figure_to_png
from ..reports.curves import figure_of_curves
from ..reports.outlines import figure_of_slices
from ..reports.report import SegmentedSlice
from ..scoring.metrics import dice_counts, dice_from_counts
from ..scoring.surface_dice import SurfaceDiceOfRuns
from .training_state import HISTORY_NAME

VALIDATION = ("held_out_dice_soft", "held_out_dice", "threshold", "held_out_surface_dice")
_DRAWN_SLICES = 4
# The curves, and what the checkpoint makes of some slices.
PICTURE_NAMES = ("curves.png", "predictions.png")


def evaluate(model: nn.Module, held_out: SliceDataset, training: Training) -> dict[str, float | None]:
    """Segments slices at their own size as they will be in use, with every threshold.

    Args:
        model: stays as it is; a copy answers.
        held_out: at least one slice.
        training: its preprocessing.

    Returns:
        held_out_dice_soft, of the probabilities; held_out_dice, of the masks at the best threshold;
        threshold, which that was. Both are pooled over the slices. held_out_surface_dice, the competition's metric, at
        that threshold: the mean over the kidneys with neighbouring slices, None where there are none.
    """
    # Without the training's reduced precision, which accelerate has put around the model's forward.
    plain = extract_model_from_parallel(copy.deepcopy(model), keep_fp32_wrapper=False)
    predictor = create_predictor(plain, training.preprocessing, 0.5, DEFAULT_INFERENCE)
    counts = np.zeros((len(THRESHOLDS), 3), dtype=np.int64)
    overlap, sizes = 0.0, 0.0
    runs = _runs(held_out)
    surfaces = {kidney: [SurfaceDiceOfRuns() for _ in THRESHOLDS] for kidney in runs}
    places = zip(held_out.slices.items(), _predict(predictor, held_out), strict=True)
    for (slice_id, (volume, z)), probability in places:
        mask_gt, annotated = volume.label(z), volume.annotated(z)
        known = np.ones_like(mask_gt) if annotated is None else annotated
        masks = [_cut(probability, threshold) for threshold in THRESHOLDS]
        counts += [dice_counts(mask_gt[known], mask[known]) for mask in masks]
        for surface, mask in zip(surfaces.get(volume.name, ()), masks, strict=False):
            surface.update(mask_gt & known, mask & known, slice_id in runs[volume.name])
        overlap += float(probability.numpy()[mask_gt & known].sum(dtype=np.float64))
        sizes += float(probability.numpy()[known].sum(dtype=np.float64)) + int(mask_gt[known].sum())
    scores = [dice_from_counts(*row) for row in counts.tolist()]
    best = int(np.argmax(scores))
    soft = 2 * overlap / sizes if sizes else 1.0
    of_kidneys = [of_kidney[best].compute() or 0.0 for of_kidney in surfaces.values()]
    surface_dice = sum(of_kidneys) / len(of_kidneys) if of_kidneys else None
    return dict(zip(VALIDATION, (soft, scores[best], THRESHOLDS[best], surface_dice), strict=True))


def draw(output_dir: Path, checkpoint_path: Path, history_path: Path, slices: SliceDataset) -> None:
    """Writes `curves.png`, and `predictions.png` with what a checkpoint makes of the first slices."""
    write_whole(output_dir / PICTURE_NAMES[0], figure_to_png(figure_of_curves({"": pd.read_csv(history_path)})))
    (predictor,) = load_predictors([checkpoint_path], DEFAULT_INFERENCE)
    drawn = zip(slices.slices.items(), _predict(predictor, slices), strict=True)
    segmented = [
        SegmentedSlice(slice_id, volume[z], _cut(probability, predictor.threshold), volume.label(z))
        for (slice_id, (volume, z)), probability in islice(drawn, _DRAWN_SLICES)
    ]
    figure = figure_of_slices(segmented)
    figure.suptitle(DEFAULT_INFERENCE.describe(f"{predictor.threshold:g}"), fontsize=9)
    write_whole(output_dir / PICTURE_NAMES[1], figure_to_png(figure))


def describe_best(checkpoint_path: Path) -> str:
    """Which epoch of a run is kept and why, and how far the others fell short of it.

    Args:
        checkpoint_path: what `fit` gives, with `metrics.csv` beside it.
    """
    card, history = read_card(checkpoint_path), pd.read_csv(checkpoint_path.with_name(HISTORY_NAME))
    epoch, score = card.scores["epoch"], card.scores["held_out_dice_pooled"]
    which = f"best checkpoint: {checkpoint_path}, epoch {epoch} of {len(history)}"
    if score is None:
        return f"{which}, the last: no slice was held out to choose by; threshold {card.threshold:g} by the settings"
    looked = history.dropna(subset="held_out_dice")
    is_last = epoch == looked["epoch"].iloc[-1]
    last = "it is the last" if is_last else f"the last has {looked['held_out_dice'].iloc[-1]:.4f}"
    held_out, looks = len(card.training["held_out"]), len(looked)
    slices = f"{held_out} held-out slice{'s' * (held_out != 1)}"
    why = f", the highest of {looks} looks; {last}" if looks > 1 else ", the only look at them"
    return f"{which}: Dice {score:.4f} at threshold {card.threshold:g} on {slices}{why}"


def _runs(slices: SliceDataset) -> dict[str, set[str]]:
    """The first slice of each run of neighbours, by kidney; without kidneys in which no two slices are neighbours."""
    kidneys: dict[str, dict[str, tuple[int, int]]] = {}
    for slice_id, (volume, z) in slices.slices.items():
        kidneys.setdefault(volume.name, {})[slice_id] = volume.slice_size(z)
    runs = {}
    for kidney, sizes in kidneys.items():
        first = {run[0] for run in consecutive_runs([*sizes])}
        first |= {after for before, after in pairwise(sizes) if sizes[before] != sizes[after]}
        if len(first) < len(sizes):
            runs[kidney] = first
    return runs


def _predict(predictor: Predictor, slices: SliceDataset) -> Iterator[torch.Tensor]:
    """The probability (H, W) float32 of each slice; what is measured of a volume is measured once."""
    for _, places in groupby(slices.slices.values(), key=lambda place: place[0].name):
        volumes, zs = zip(*places, strict=True)
        for _, probability in predict_probabilities(volumes[0], [predictor], DEFAULT_INFERENCE, zs):
            yield probability.cpu()


def _cut(probability: torch.Tensor, threshold: float) -> np.ndarray:
    """The mask (H, W) bool, as it will be in use."""
    return fetch_mask(probability, threshold, DEFAULT_INFERENCE.hysteresis)
