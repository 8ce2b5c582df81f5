"""Several models as one: a kidney's slices are read once, and each model's scores averaged."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch

from ..config import Inference
from ..data.background import measure_background
from ..data.intensity import IntensityRange, measure_intensity
from ..data.padding import sample_slices
from ..data.volume import Volume
from ..errors import tell
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


def ensemble_score(volume: Volume, predictors: Sequence[Predictor], inference: Inference) -> Score:
    """Several predictors as one, for slices of this kidney: each slice is read once, the members' scores averaged.

    Reading and preparing have a thread of their own; so has the model on a GPU, and on a CPU it has one per core (see
    `choose_threads`). No other thread computes with torch while they do: OpenMP keeps a team of threads for every
    thread that computes, and once these are more than the cores they wait for one another.
    """
    intensities, background = measure_grey_values(volume, predictors, inference)

    def score(slices: Iterable[np.ndarray], wanted: slice = slice(None)) -> Iterator[torch.Tensor]:
        members = zip(predictors, intensities, tee(slices, len(predictors)), strict=True)
        del slices  # else it would hold every slice that has been read
        prepared = [p.prepare(each, i, inference, background) for p, i, each in members]
        requests = prefetch(islice(zip(*prepared, strict=True), wanted.start, wanted.stop), _AHEAD)
        streams = [
            predictor.run(map(itemgetter(index), each), inference)
            for index, (predictor, each) in enumerate(zip(predictors, tee(requests, len(predictors)), strict=True))
        ]
        del prepared, requests
        means = map(_mean, zip(*streams, strict=True))
        return means if predictors[0].device.type == "cpu" else prefetch(means, _AHEAD)

    return score


def _mean(maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.stack(maps).mean(0) if len(maps) > 1 else maps[0]
