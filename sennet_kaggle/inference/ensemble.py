"""Several models as one: a kidney's slices are read once, and each model's scores averaged."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..config import Inference
from ..data.background import measure_background
from ..data.intensity import IntensityRange, measure_intensity
from ..data.padding import fill_padding, sample_slices
from ..data.resizing import resize_map, resize_slice, scaled_length
from ..data.volume import Volume
from ..errors import tell
from ..models.checkpoint import Card
from .allocator import keep_freed_memory
from .predictor import Predictor
from .stream import prefetch, tee

# On import, since threads that torch has started before it keep heaps of their own.
keep_freed_memory()

Score = Callable[..., Iterator[torch.Tensor]]
"""From a stream of slices, each (H, W) uint8 or uint16, to that of their score maps, each (H, W) float32; a second
argument says which of the slices are to be scored."""

# Slices that wait, prepared, for the model, and score maps that wait for what comes after it.
_AHEAD = 2
# Pixels of a scale's own, about half as wide as the lumens that the shipped model has learned from. Chosen by
# cross-validation on kidney_1_dense from 9 to 81: narrower ones cost Dice at its own size, wider ones when enlarged.
_WIDE = 45
# No scale is surer than a probability of 0.001 or 0.999, nor outweighs another by more.
_MOST_SURE = 1e-3


def mean_threshold(predictors: Sequence[Predictor]) -> float:
    """The threshold of an ensemble."""
    return sum(predictor.threshold for predictor in predictors) / len(predictors)


class GreyValues(NamedTuple):
    """What the members of an ensemble need to know of a kidney's grey values."""

    intensities: list[IntensityRange]
    """One per member."""
    background: np.number | None
    """None where none is looked for."""


def measure_grey_values(volume: Volume, predictors: Sequence[Predictor], inference: Inference) -> GreyValues:
    """Looks at a sample of a kidney's slices, once for all members, or at none where nobody asks."""
    windows = any(predictor.preprocessing.region == "windows" for predictor in predictors)
    skips = windows and inference.skip_background
    percentile = any(predictor.preprocessing.intensity == "percentile" for predictor in predictors)
    sample = sample_slices(volume) if skips or percentile else volume
    background = measure_background(sample) if skips else None
    intensities = [measure_intensity(sample, predictor.preprocessing) for predictor in predictors]
    ranges = ", ".join(f"{intensity.low:g} to {intensity.high:g}" for intensity in intensities)
    name = getattr(volume, "name", "volume")
    tell(f"{name}: {len(volume)} slices, grey values {ranges} become 0 to 1, background up to {background}")
    return GreyValues(intensities, background)


def scales_of(models: Sequence[Predictor] | Sequence[Card], inference: Inference) -> tuple[float, ...]:
    """The scales at which slices are seen: 1 alone where a model sees them whole, to which all would be the same."""
    whole = any(model.preprocessing.region == "whole" for model in models)
    return (1.0,) if whole else (1.0, *inference.extra_scales)


def ensemble_score(predictors: Sequence[Predictor], grey: GreyValues, inference: Inference) -> Score:
    """Several predictors as one, for slices of one kidney: each slice is read once, the members' scores averaged.

    Reading and preparing have a thread of their own; so has the model on a GPU, and on a CPU it has one per core (see
    `choose_threads`). No other thread computes with torch while they do: OpenMP keeps a team of threads for every
    thread that computes, and once these are more than the cores they wait for one another.
    """
    scales = scales_of(predictors, inference)
    members = [(scale, *each) for scale in scales for each in zip(predictors, grey.intensities, strict=True)]

    def score(slices: Iterable[np.ndarray], wanted: slice = slice(None)) -> Iterator[torch.Tensor]:
        shown = tee(slices, len(members))
        del slices  # else it would hold every slice that has been read
        prepared = [
            predictor.prepare(rescale_slices(each, scale), intensity, inference, grey.background)
            for (scale, predictor, intensity), each in zip(members, shown, strict=True)
        ]
        requests = prefetch(islice(zip(*prepared, strict=True), wanted.start, wanted.stop), _AHEAD)
        streams = [
            predictor.run(map(itemgetter(index), each), inference)
            for index, ((_, predictor, _), each) in enumerate(zip(members, tee(requests, len(members)), strict=True))
        ]
        del shown, prepared, requests
        scores = (_combine(maps, scales, inference) for maps in zip(*streams, strict=True))
        return scores if predictors[0].device.type == "cpu" else prefetch(scores, _AHEAD)

    return score


def add_wide(score: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Adds the wide vessels that were found at a smaller scale.

    A model fills lumens of the widths that it has learned from; the smaller the scale, the wider they may be in the
    scan. Its finer answers at that scale are left out by a grey opening (Serra 1982) with a square of 45 of its pixels,
    and the larger of the two scores counts.

    Args:
        score: (H, W) float32.
        coarse: (h, w) float32, on the same device.

    Returns:
        (H, W) float32.
    """
    if coarse.device.type == "cpu":
        opened = torch.from_numpy(cv2.morphologyEx(coarse.numpy(), cv2.MORPH_OPEN, np.ones((_WIDE, _WIDE), np.uint8)))
    else:
        eroded = -F.max_pool2d(-coarse[None, None], _WIDE, 1, _WIDE // 2)
        opened = F.max_pool2d(eroded, _WIDE, 1, _WIDE // 2)[0, 0]
    return torch.maximum(score, resize_map(opened, *score.shape))


def rescale_slices(slices: Iterable[np.ndarray], scale: float) -> Iterable[np.ndarray]:
    """Resizes slices (H, W) by a factor, their padding filled before, so that its edge is not blurred into them."""
    if scale == 1:
        return slices
    filled = map(fill_padding, slices)
    return (resize_slice(each, *(scaled_length(length, scale) for length in each.shape)) for each in filled)


def mean_of_scales(maps: Sequence[torch.Tensor], inference: Inference) -> torch.Tensor:
    """Averages the logits of what one slice is at several scales, so that the surer scale decides where they differ.

    Args:
        maps: (H, W) float32 scores, of each scale.
        inference: whether they are probabilities or logits; the mean is the same.

    Returns:
        (H, W) float32.
    """
    if len(maps) == 1:
        return maps[0]
    if inference.average == "probability":
        return _mean([map_.logit(_MOST_SURE) for map_ in maps]).sigmoid()
    limit = -math.log(_MOST_SURE / (1 - _MOST_SURE))
    return _mean([map_.clamp(-limit, limit) for map_ in maps])


def _combine(maps: tuple[torch.Tensor, ...], scales: Sequence[float], inference: Inference) -> torch.Tensor:
    """One score map (H, W) from those of all members, scale after scale."""
    count = len(maps) // len(scales)
    means = [_mean(maps[place : place + count]) for place in range(0, len(maps), count)]
    fine = [map_ for map_, scale in zip(means, scales, strict=True) if scale >= 1]
    score = mean_of_scales([resize_map(map_, *means[0].shape) for map_ in fine], inference)
    for map_, scale in zip(means, scales, strict=True):
        score = add_wide(score, map_) if scale < max(scales) else score
    return score


def _mean(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([*maps]).mean(0) if len(maps) > 1 else maps[0]
