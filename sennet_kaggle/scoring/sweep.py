"""Every metric over thresholds in one pass over kept probabilities, and the plateau on which a threshold is safe."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..config import THRESHOLDS
from ..errors import InputError
from ..files import check_output_dir, make_dir, write_whole
from ..inference.probability import LEVELS, ProbabilityVolume, open_probabilities
from ..models.identity import tell_learned
from ..progress import Bar, progress_bar
from ..rendering import SERIES, figure_to_png, format_table
from ..submission.submission import refuse
from .metrics import largest_object
from .score import KidneyScorer, add_remark, leaderboard_remarks, mean_scores
from .truth import Truth, known_kidneys, open_truth

METRICS = ("surface_dice", "surface_dice_2d_1px", "dice_pooled", "dice_mean", "dice_without_largest", "cl_dice")
_PLATEAU_LOSS = 0.01
_MARKERS = "osD^vP"


def sweep_thresholds(
    probability_dir: Path | str,
    labels_path: Path | str,
    thresholds: Sequence[float] = THRESHOLDS,
    centerlines: bool = False,
    metric: str | None = None,
) -> pd.DataFrame:
    """Scores kept probabilities at many thresholds; slices without a label are passed over.

    Args:
        probability_dir: of `predict --save-probability`.
        labels_path: see `truth.open_truth`.
        thresholds: ascending, each in 0..1.
        centerlines: also compute clDice, which takes several times as long as all the rest.
        metric: one that must be there, or else nothing is computed.

    Returns:
        A row per threshold: threshold, and the mean over kidneys of each metric of `score.Scores` that they have;
        `attrs["remarks"]` has a line for each kidney whose Surface Dice cannot be compared with the leaderboard.

    Raises:
        InputError: no probabilities, a threshold out of order, a kidney without a label, or one without the metric.
    """
    if list(thresholds) != sorted(set(thresholds)) or not all(0 <= threshold < 1 for threshold in thresholds):
        raise InputError(f"thresholds must ascend within 0..1 (1 excluded), got {list(thresholds)}")
    kidneys = open_probabilities(probability_dir)
    sizes = {kidney.name: kidney.slice_size for kidney in kidneys}
    theirs = {slice_id.rpartition("_")[0]: kidney.name for kidney in kidneys for slice_id in kidney.slice_ids}
    known = {**known_kidneys(labels_path), **theirs}
    truth = open_truth(labels_path, sizes, known_sizes={str(probability_dir): sizes}, known=known)
    runs = truth.runs(truth.labels.keys() & {slice_id for kidney in kidneys for slice_id in kidney.slice_ids})
    refuse(probability_dir, [f"{name}: has no labelled slice in {labels_path}" for name in sizes if name not in runs])
    apart = [name for name in sizes if len(runs[name]) > 1 and max(map(len, runs[name])) == 1]
    if metric == "surface_dice" and apart:
        raise InputError(
            f"surface_dice needs labelled slices that are neighbours, and {', '.join(apart)} has none: "
            "choose --metric surface_dice_2d_1px"
        )
    scored = {slice_id for of_kidney in runs.values() for run in of_kidney for slice_id in run}
    learned = {each: twin for kidney in kidneys for each, twin in kidney.learned.items() if each in scored}
    tell_learned(learned, len(scored))
    by_kidney = {}
    with progress_bar("sweeping", len(scored)) as progress:
        for kidney in kidneys:
            scorers = {threshold: KidneyScorer(centerlines) for threshold in thresholds}
            by_kidney[kidney.name] = _sweep_kidney(kidney, truth, runs[kidney.name], scorers, progress)
    scores = {
        threshold: {
            kidney.name: add_remark(
                by_kidney[kidney.name][threshold].compute(),
                kidney.name,
                truth,
                len(kidney.slice_ids) - sum(map(len, runs[kidney.name])),
            )
            for kidney in kidneys
        }
        for threshold in thresholds
    }
    means = [mean_scores(scores[threshold]) for threshold in thresholds]
    columns = {name: [getattr(mean, name) for mean in means] for name in METRICS}
    table = pd.DataFrame({"threshold": thresholds, **columns}).dropna(axis="columns", how="all")
    table.attrs["remarks"] = leaderboard_remarks(scores[thresholds[0]])
    return table


def write_sweep(
    probability_dir: Path | str,
    labels_path: Path | str,
    output_dir: Path | str,
    metric: str = "surface_dice",
    centerlines: bool = False,
) -> str:
    """Sweeps, and writes `sweep.csv` and `sweep.png`.

    Args:
        metric: whose plateau is found and drawn, one of METRICS.
        centerlines: also compute clDice.

    Returns:
        The table and the plateau as text.

    Raises:
        InputError: as `sweep_thresholds`, or an unknown metric.
    """
    known = [name for name in METRICS if centerlines or name != "cl_dice"]
    if metric not in known:
        raise InputError(f"unknown metric {metric!r}: choose one of {', '.join(known)}")
    check_output_dir(output_dir, ("sweep.csv", "sweep.png"))
    table = sweep_thresholds(probability_dir, labels_path, centerlines=centerlines, metric=metric)
    output_dir = Path(output_dir)
    make_dir(output_dir)
    write_whole(output_dir / "sweep.csv", table.to_csv(index=False).encode())
    write_whole(output_dir / "sweep.png", figure_to_png(figure_of_sweep(table, metric)))
    first, last, middle = find_plateau(table["threshold"].tolist(), table[metric].tolist())
    remarks = "".join(f"\n{remark}" for remark in table.attrs["remarks"])
    return (
        f"{format_table(table)}{remarks}\n\n"
        f"{metric} stays within {_PLATEAU_LOSS:g} of its best from {first:g} to {last:g}: "
        f"take {middle:g}\nfiles: {output_dir / 'sweep.csv'}, {output_dir / 'sweep.png'}"
    )


def find_plateau(
    thresholds: Sequence[float], scores: Sequence[float], loss: float = _PLATEAU_LOSS
) -> tuple[float, float, float]:
    """Finds the thresholds around the best one that lose next to nothing.

    A maximum over thresholds is drawn by noise and does not carry over to another kidney; the middle of
    the stretch around it in which no score is worse than the best by more than `loss` does, better.

    Args:
        thresholds: T values, ascending.
        scores: T scores.
        loss: how much a score may fall short of the best.

    Returns:
        First and last threshold of the stretch, and its middle one.
    """
    values = np.asarray(scores)
    best = int(values.argmax())
    bad = np.flatnonzero(values < values[best] - loss)
    first = max(bad[bad < best], default=-1) + 1
    last = min(bad[bad > best], default=len(scores)) - 1
    return thresholds[first], thresholds[last], thresholds[(first + last) // 2]


def figure_of_sweep(table: pd.DataFrame, metric: str = "surface_dice") -> Figure:
    """Draws every metric over the thresholds, and the plateau of one of them."""
    first, last, middle = find_plateau(table["threshold"].tolist(), table[metric].tolist())
    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=120)
    axis = figure.subplots()
    axis.axvspan(first, last, color="0.9", label=f"plateau of {metric}: {first:g} to {last:g}")
    axis.axvline(middle, color="0.5", linestyle="--", label=f"its middle: {middle:g}")
    for name, colour, marker in zip(table.columns[1:], SERIES, _MARKERS, strict=False):
        axis.plot(table["threshold"], table[name], marker=marker, markersize=4, color=colour, label=name)
    axis.set_xlabel("threshold (probability above which a pixel is vessel)")
    axis.set_ylabel("score, mean over kidneys")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _sweep_kidney(
    kidney: ProbabilityVolume,
    truth: Truth,
    runs: Sequence[Sequence[str]],
    scorers: dict[float, KidneyScorer],
    progress: Bar,
) -> dict[float, KidneyScorer]:
    """Feeds a kidney's labelled slices to the scorer of each threshold."""
    z_of = {slice_id: z for z, slice_id in enumerate(kidney.slice_ids)}
    for run in runs:
        for slice_id in run:
            progress.update()
            mask_gt, levels = truth.read(slice_id), kidney.levels[z_of[slice_id]]
            largest = largest_object(mask_gt)
            for threshold, scorer in scorers.items():
                scorer.update(mask_gt, levels > threshold * LEVELS, largest, begins_run=slice_id == run[0])
    return scorers
