"""Slices → probability → mask: kidneys through one model or several, along one axis or three."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain, compress, count, groupby, islice
from pathlib import Path

import numpy as np
import torch

from ..config import Inference
from ..data.bits import fetch_mask
from ..data.resizing import resize_map
from ..data.volume import Volume, warn_of_gaps
from ..distributed import Shard
from ..errors import InputError, warn
from ..progress import progress_bar
from ..submission.rle import rle_encode
from .axes import mean_over_axes
from .ensemble import GreyValues, Score, ensemble_score, mean_threshold, measure_grey_values, rescale_slices
from .forward import to_probability
from .predictor import Predictor
from .probability import save_probability


def predict_probabilities(
    volume: Volume,
    predictors: Sequence[Predictor],
    inference: Inference,
    zs: Sequence[int] | None = None,
    go_on: Callable[[], bool] = lambda: True,
    shard: Shard = Shard(),  # noqa: B008
    grey_values: GreyValues | None = None,
) -> Generator[tuple[str, torch.Tensor], None, None]:
    """Predicts a kidney.

    Args:
        volume: D slices.
        predictors: their scores are averaged.
        inference: how they are run.
        zs: only these slices, in ascending order; they come out as they would among all. Along z, only they and
            the neighbours that the models see with them are read.
        go_on: with axes zyx, whether there is time for another plane (see `mean_over_axes`).
        shard: with axes zyx, this process's part of the work on all slices.
        grey_values: what `measure_grey_values` found for the volume, where that is known.

    Yields:
        (slice id, probability) in the volume's order; the probability is (H, W) float32 in 0..1, of the
        slice's own size, where the model runs.
    """
    grey_values = grey_values or measure_grey_values(volume, predictors, inference)
    score = ensemble_score(predictors, grey_values, inference)
    scale = inference.scale_of(volume.name)
    zs = range(len(volume)) if zs is None else zs
    reach = max(np.ptp(predictor.preprocessing.offsets).item() for predictor in predictors)
    if inference.axes == "zyx" or reach:
        warn_of_gaps(volume, "axes zyx" if inference.axes == "zyx" else "a model that sees several slices at once")
    scores: Iterator[torch.Tensor]
    if inference.axes == "z":
        alone = all(predictor.preprocessing.outputs == "centre" for predictor in predictors)
        scores = chain.from_iterable(_score_along_z(volume, run, score, scale, reach, alone) for run in _runs(zs))
    else:
        means = mean_over_axes(volume, _to_numpy(score), scale, inference.scratch_dir, go_on, shard, reach)
        scores = compress(map(torch.from_numpy, means), map({*zs}.__contains__, count()))
    for z, score_map in zip(zs, scores, strict=False):
        yield volume.slice_ids[z], to_probability(score_map, inference)


def predict_masks(
    volume: Volume,
    predictors: Sequence[Predictor],
    inference: Inference,
    probability_dir: Path | None = None,
    shard: Shard = Shard(),  # noqa: B008
) -> Iterator[tuple[str, np.ndarray]]:
    """As `predict_probabilities`, cut at the mean of the members' thresholds: (slice id, (H, W) bool).

    Args:
        probability_dir: also keep the kidney's probability there (see `probability.save_probability`).
        shard: which part of the slices.
    """
    threshold, zs = mean_threshold(predictors), shard.part(len(volume))
    probabilities: Iterator[tuple[str, torch.Tensor]]
    probabilities = predict_probabilities(volume, predictors, inference, zs, shard=shard)
    if probability_dir is not None:
        fetched = ((slice_id, probability.cpu()) for slice_id, probability in probabilities)
        probabilities = save_probability(probability_dir, volume, fetched)
    for slice_id, probability in probabilities:
        yield slice_id, fetch_mask(probability, threshold, inference.hysteresis)


def predict_rows(
    volumes: Sequence[Volume],
    predictors: Sequence[Predictor],
    inference: Inference,
    probability_dir: Path | None = None,
    shard: Shard = Shard(),  # noqa: B008
) -> Iterator[tuple[str, str]]:
    """Segments kidneys behind a progress bar; arguments as those of `predict_masks`.

    Yields:
        The rows of the submission, (slice id, RLE), that are this process's.

    Raises:
        InputError: the probabilities are to be kept, and several processes have a part of them each.
    """
    if probability_dir is not None and shard.world > 1:
        raise InputError("one process alone can keep probabilities: leave out torchrun or save_probability")
    warn_of_unknown_scales(volumes, inference)
    total = sum(len(shard.part(len(volume))) for volume in volumes)
    with progress_bar("segmenting", total, shown=shard.rank == 0) as progress:
        for volume in volumes:
            progress.set_postfix_str(volume.name)
            for slice_id, mask in predict_masks(volume, predictors, inference, probability_dir, shard):
                yield slice_id, rle_encode(mask)
                progress.update()


def warn_of_unknown_scales(volumes: Sequence[Volume], inference: Inference) -> None:
    """Says when the settings have a scale for a kidney that is not among these, which changes nothing."""
    names = [volume.name for volume in volumes]
    unknown = sorted(inference.scales.keys() - {*names})
    if unknown:
        warn(f"scales has {unknown[0]}, which is none of the kidneys: expected names of {', '.join(names)}")


def _to_numpy(score: Score) -> Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]:
    return lambda slices: (map_.numpy(force=True) for map_ in score(slices))


def _score_along_z(
    volume: Volume, zs: range, score: Score, scale: float, reach: int, alone: bool
) -> Iterator[torch.Tensor]:
    """Scores consecutive slices, each resized before and its scores back after: maps (H, W) float32.

    Args:
        reach: how far around them are slices that the models see with them.
        alone: whether what the models say of those is not needed, either.
    """
    shown = range(max(0, zs.start - reach), min(len(volume), zs.stop + reach))
    wanted = slice(zs.start - shown.start, zs.stop - shown.start)
    slices = rescale_slices((volume[z] for z in shown), scale)
    scores = score(slices, wanted) if alone else islice(score(slices), wanted.start, wanted.stop)
    if scale == 1:
        return scores
    return (resize_map(map_, *volume.slice_size(z)) for z, map_ in zip(zs, scores, strict=True))


def _runs(zs: Sequence[int]) -> Iterator[range]:
    """Ascending numbers as ranges of consecutive ones."""
    if isinstance(zs, range):
        yield zs
        return
    for _, pairs in groupby(enumerate(zs), key=lambda pair: pair[1] - pair[0]):
        run = [z for _, z in pairs]
        yield range(run[0], run[-1] + 1)
