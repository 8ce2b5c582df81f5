"""Models → scores on slices that they have not seen: held-out ones, as they are or changed, and another kidney's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from ..config import THRESHOLDS, Inference
from ..data.bits import fetch_mask
from ..data.intensity import IntensityRange
from ..data.volume import Volume
from ..inference.ensemble import measure_grey_values
from ..inference.predict import predict_probabilities
from ..inference.predictor import Predictor
from ..scoring.metrics import dice_coefficient
from ..scoring.score import KidneyScorer
from ..scoring.sweep import find_plateau
from .experiments import FOLDS

LEARNED, TEST = "kidney_1_dense", "kidney_2"
STRETCHED, CONTRAST = "kidney_1_dense, stretched", 1.25
"""Its held-out slices with this times the contrast: kidneys differ as slices of one kidney do not."""
ENLARGED = {f"kidney_1_dense, enlarged {scale}": scale for scale in (2, 3)}
"""Its held-out slices enlarged: another kidney's arteries may be that much wider."""
ONE_SCALE = Inference(tta="flips")
"""How trainings are compared: the further scales of the default take five times as long, for each of them alike."""
MEASURES = {
    "dice_mean": "Dice, mean",
    "dice_pooled": "pooled",
    "dice_without_largest": "without largest",
    "surface_dice_2d_1px": "2D Surface Dice at 1 px",
}

Answers = Iterator[tuple[str, np.ndarray, torch.Tensor]]
"""Slice id, label (H, W) bool and probability (H, W) float32; a slice is let go before the next one comes."""


def held_out_ids(fold: int) -> tuple[str, ...]:
    """The slices that a fold of the cross-validation holds out."""
    return tuple(f"{LEARNED}_{stem}" for stem in FOLDS[fold])


def predict_held_out(
    predictors: Sequence[Predictor], kidneys: Mapping[str, Volume], kidney: str, fold: int, inference: Inference
) -> Answers:
    """What models that answer together say of a kidney.

    Args:
        predictors: the models.
        kidneys: LEARNED and TEST, opened.
        kidney: LEARNED, STRETCHED or a key of ENLARGED, of which the slices are taken that the fold holds out; or TEST.
        fold: index of FOLDS.
        inference: how the models are run.
    """
    volume = kidneys[TEST if kidney == TEST else LEARNED]
    zs = [z for z in range(len(volume)) if volume.is_labelled(z)]
    if kidney != TEST:
        zs = [z for z in zs if volume.slice_ids[z] in held_out_ids(fold)]
    grey = measure_grey_values(volume, predictors, inference)
    if kidney == STRETCHED:
        grey = grey._replace(intensities=[_stretch(intensity) for intensity in grey.intensities])
    inference = replace(inference, scale=inference.scale_of(volume.name) * ENLARGED.get(kidney, 1))
    probabilities = predict_probabilities(volume, predictors, inference, zs, grey_values=grey)
    for z, (slice_id, probability) in zip(zs, probabilities, strict=True):
        yield slice_id, volume.label(z), probability.cpu()


def choose_threshold(answers: Answers, hysteresis: float) -> float:
    """The middle of the plateau of the mean Dice of all slices."""
    dice = [
        [dice_coefficient(gt, fetch_mask(probability, threshold, hysteresis)) for threshold in THRESHOLDS]
        for _, gt, probability in answers
    ]
    return find_plateau(THRESHOLDS, np.mean(dice, axis=0).tolist())[2]


def score_answers(answers: Answers, threshold: float, hysteresis: float) -> dict[str, float]:
    """The MEASURES of all slices together."""
    scorer = KidneyScorer()
    for _, mask_gt, probability in answers:
        scorer.update(mask_gt, fetch_mask(probability, threshold, hysteresis))
    scores = scorer.compute()
    return {measure: getattr(scores, measure) for measure in MEASURES}


def _stretch(intensity: IntensityRange) -> IntensityRange:
    return IntensityRange(intensity.low, intensity.low + (intensity.high - intensity.low) / CONTRAST)
