"""A model on held-out slices at their own size: Dice, the threshold, pictures."""

import copy
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate.utils import extract_model_from_parallel
from torch import nn

from ..config import DEFAULT_INFERENCE, THRESHOLDS, Training
from ..data.dataset import SliceDataset
from ..files import write_whole
from ..inference.loading import create_predictor, load_predictors
from ..inference.predict import predict_probabilities
from ..inference.predictor import Predictor
from ..rendering import figure_to_png
from ..reports.report import SegmentedSlice, figure_of_curves, figure_of_slices
from ..scoring.metrics import dice_counts, dice_from_counts

VALIDATION = ("held_out_dice_soft", "held_out_dice", "threshold")
_DRAWN_SLICES = 4
# The curves, and what the checkpoint makes of some slices.
PICTURE_NAMES = ("curves.png", "predictions.png")


def evaluate(model: nn.Module, held_out: SliceDataset, training: Training) -> dict[str, float]:
    """Segments slices at their own size as they will be in use, with every threshold.

    Args:
        model: stays as it is; a copy answers.
        held_out: at least one slice.
        training: its preprocessing.

    Returns:
        held_out_dice_soft, of the probabilities; held_out_dice, of the masks at the best threshold;
        threshold, which that was. Both are pooled over the slices.
    """
    # Without the training's reduced precision, which accelerate has put around the model's forward.
    plain = extract_model_from_parallel(copy.deepcopy(model), keep_fp32_wrapper=False)
    predictor = create_predictor(plain, training.preprocessing, 0.5, DEFAULT_INFERENCE)
    counts = np.zeros((len(THRESHOLDS), 3), dtype=np.int64)
    overlap, sizes = 0.0, 0.0
    for (volume, z), probability in zip(held_out.slices.values(), _predict(predictor, held_out), strict=True):
        mask_gt, annotated = volume.label(z), volume.annotated(z)
        if annotated is not None:
            mask_gt, probability = mask_gt[annotated], probability[annotated]
        counts += [dice_counts(mask_gt, probability > threshold) for threshold in THRESHOLDS]
        overlap += float(probability[mask_gt].sum(dtype=np.float64))
        sizes += float(probability.sum(dtype=np.float64)) + int(mask_gt.sum())
    scores = [dice_from_counts(*row) for row in counts.tolist()]
    best = int(np.argmax(scores))
    soft = 2 * overlap / sizes if sizes else 1.0
    return dict(zip(VALIDATION, (soft, scores[best], THRESHOLDS[best]), strict=True))


def draw(output_dir: Path, checkpoint_path: Path, history_path: Path, slices: SliceDataset) -> None:
    """Writes `curves.png`, and `predictions.png` with what a checkpoint makes of the first slices."""
    write_whole(output_dir / PICTURE_NAMES[0], figure_to_png(figure_of_curves({"": pd.read_csv(history_path)})))
    (predictor,) = load_predictors([checkpoint_path], DEFAULT_INFERENCE)
    drawn = zip(slices.slices.items(), _predict(predictor, slices), strict=True)
    segmented = [
        SegmentedSlice(slice_id, volume[z], probability > predictor.threshold, volume.label(z))
        for (slice_id, (volume, z)), probability in islice(drawn, _DRAWN_SLICES)
    ]
    figure = figure_of_slices(segmented)
    figure.suptitle(DEFAULT_INFERENCE.describe(f"{predictor.threshold:g}"), fontsize=9)
    write_whole(output_dir / PICTURE_NAMES[1], figure_to_png(figure))


def _predict(predictor: Predictor, slices: SliceDataset) -> Iterator[np.ndarray]:
    """The probability (H, W) float32 of each slice; what is measured of a volume is measured once."""
    for _, places in groupby(slices.slices.values(), key=lambda place: place[0].name):
        volumes, zs = zip(*places, strict=True)
        for _, probability in predict_probabilities(volumes[0], [predictor], DEFAULT_INFERENCE, zs):
            yield probability.numpy(force=True)
