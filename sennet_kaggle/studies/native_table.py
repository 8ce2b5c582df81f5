"""Scores and costs of the group native → its table, the paragraph that reads it, and the points of its picture."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..config import THRESHOLDS, Training
from ..rendering import markdown_table
from ..reports.tradeoff import Point
from ..scoring.metrics import dice_from_counts
from ..scoring.sweep import find_plateau
from .compare import machine, settings_text
from .experiments import FAMILIES, FOLDS, SHIPPED
from .held_out import LEARNED, ONE_SCALE, TEST
from .native_cost import Cost

_COUNTS = ["vessel_px", "predicted_px", "common_px"]
NEAR = 0.03
"""A model within this of another's Dice is called near it; two seeds of one model differ by a third of it."""


@dataclass(frozen=True)
class Summary:
    """One experiment: what it scored and what it costs."""

    name: str
    training: Training
    threshold: float
    learned: Mapping[str, float]
    """On the slices of kidney_1_dense, each by the model that has not seen it: dice_mean, dice_pooled, surface_dice."""
    test: Mapping[str, float]
    """The same on kidney_2, by all the models."""
    test_spread: float
    """Standard deviation over the models of their mean Dice on kidney_2."""
    cost: Cost
    minutes: float
    """Of its trainings together, by the clock."""
    checkpoints: Sequence[str]
    """One per fold that is done."""
    slices: int
    """Of kidney_1_dense, that these have not learned from."""
    false_px: Mapping[str, int]
    """Pixels called vessel in those of them that have none, by slice."""
    dice_of_vessels: float
    """Mean Dice on the others of them. Models are ranked by it: an empty slice counts as 1 or 0, by a single pixel."""

    @property
    def family(self) -> str:
        return next((family for family, names in FAMILIES.items() if self.name in names), "other")

    @property
    def steps(self) -> int:
        """Optimizer steps of one training."""
        return self.training.epochs * -(-self.training.epoch_slices // self.training.batch_size)

    def line(self) -> str:
        """The result on one line, while the others are still trained."""
        return (
            f"{self.name}: cross-validated Dice {self.learned['dice_mean']:.3f} (pooled "
            f"{self.learned['dice_pooled']:.3f}), {TEST} {self.test['dice_mean']:.3f}, "
            f"{self.cost.seconds:.2f} s a slice"
        )

    def row(self) -> dict[str, Any]:
        """The result as a row of numbers."""
        return {
            "experiment": self.name,
            "family": self.family,
            "threshold": self.threshold,
            **{f"{LEARNED}_{measure}": value for measure, value in self.learned.items()},
            f"{LEARNED}_dice_mean_of_vessels": self.dice_of_vessels,
            f"{LEARNED}_false_px": sum(self.false_px.values()),
            **{f"{TEST}_{measure}": value for measure, value in self.test.items()},
            f"{TEST}_spread": self.test_spread,
            "parameters": self.cost.parameters,
            "gflop": self.cost.gflop,
            "steps": self.steps,
            "step_seconds": self.cost.step_seconds,
            "clock_minutes": self.minutes,
            "seconds": self.cost.seconds,
            "openvino_seconds": self.cost.openvino_seconds,
            "peak_gib": self.cost.peak_gib,
        }


def summarise(
    name: str,
    training: Training,
    tables: Sequence[pd.DataFrame],
    cost: Cost,
    minutes: float,
    checkpoints: Sequence[str],
) -> Summary:
    """Chooses the threshold on kidney_1_dense and reads both kidneys' scores there.

    Args:
        name: of the experiment.
        training: its settings, of one fold.
        tables: of `native.score_run`, one per fold.
        cost: of one of its models.
        minutes: of all its trainings.
        checkpoints: names of its models.
    """
    every = pd.concat([table.assign(fold=fold) for fold, table in enumerate(tables)])
    every["dice"] = [dice_from_counts(*row) for row in every[_COUNTS].to_numpy().tolist()]
    learned = every[every["kidney"] == LEARNED]
    mean_dice = learned.groupby("threshold")["dice"].mean()
    threshold = find_plateau(THRESHOLDS, mean_dice.loc[list(THRESHOLDS)].to_numpy())[2]
    there = every[np.isclose(every["threshold"], threshold)]
    kidneys = {kidney: there[there["kidney"] == kidney] for kidney in (LEARNED, TEST)}
    spread = kidneys[TEST].groupby("fold")["dice"].mean().std()
    has_vessels = kidneys[LEARNED]["vessel_px"] > 0
    empty = kidneys[LEARNED][~has_vessels]
    return Summary(
        name=name,
        training=training,
        threshold=threshold,
        learned=_scores(kidneys[LEARNED]),
        test=_scores(kidneys[TEST]),
        test_spread=float(spread),
        cost=cost,
        minutes=minutes,
        checkpoints=checkpoints,
        slices=learned["slice"].nunique(),
        false_px=dict(zip(empty["slice"], empty["predicted_px"].tolist(), strict=True)),
        dice_of_vessels=float(kidneys[LEARNED][has_vessels]["dice"].mean()),
    )


def points(summaries: Sequence[Summary]) -> list[Point]:
    """The picture's points: seconds of a slice by torch, and cross-validated mean Dice of slices with vessels."""
    return [
        Point(_short(each.name), each.family, each.cost.seconds, each.dice_of_vessels, each.cost.openvino_seconds)
        for each in summaries
    ]


def write_up(summaries: Sequence[Summary], wanted: int, claim: str, overrides: Mapping[str, Mapping[str, Any]]) -> str:
    """The comparison as Markdown.

    Args:
        summaries: of the experiments that are done.
        wanted: how many there will be.
        claim: what the models have seen of the test kidney.
        overrides: settings that were changed.
    """
    scores = ["Dice, mean", "pooled", "2D Surface Dice at 1 px"]
    header = ["model", "family", "Dice, mean of slices with vessels", *scores]
    header += [f"{TEST}: {title}" for title in scores]
    header += ["parameters", "GFLOP per slice", "training, minutes", "slices/s, torch", "slices/s, OpenVINO"]
    header += ["peak memory, GiB"]
    rows = [_cells(each) for each in summaries]
    one = summaries[0]
    height, width = one.cost.size
    folds = len(one.checkpoints)
    problems = {each.name: each.cost.openvino_problem for each in summaries if each.cost.openvino_problem}
    changes = [f"Changed for `{pattern}`: {settings_text(each)}." for pattern, each in overrides.items()]
    notes = [
        f"Dice on {one.slices} slices of {LEARNED}, each segmented by a model that has not learned from it ({folds} of "
        f"the {len(FOLDS)} folds of the cross-validation), and on {TEST}, {claim}, by "
        f"{'the same model' if folds == 1 else f'each of these {folds} models (mean ± standard deviation over them)'}. "
        f"Thresholds were chosen on {LEARNED}; {TEST} chose nothing. "
        f"How the models were run: {ONE_SCALE.describe('as chosen')}.",
        f"Trainings: {_trainings(summaries)}; one seed, {one.training.seed}.",
        f"Costs: CPU time of one thread, float32, one view of a slice of {height} x {width}, from grey values to "
        "probability; training is the time of a step times the steps of one training; memory is that of a process "
        f"that segments with torch. By the clock all trainings took {sum(each.minutes for each in summaries):.0f} "
        "minutes, on a machine with other work.",
        *(f"No OpenVINO for {name}: {problem}." for name, problem in problems.items()),
        *changes,
        f"Checkpoints: {'; '.join(f'{each.name} ' + ', '.join(each.checkpoints) for each in summaries)}.",
        f"Machine: {machine()}. Command: `{shlex.join(['python', '-m', 'sennet_kaggle', *sys.argv[1:]])}`",
    ]
    done = [f"{len(summaries)} of {wanted} models"] * (len(summaries) < wanted)
    done += [f"{folds} of {len(FOLDS)} folds"] * (folds < len(FOLDS))
    unfinished = f"**{', '.join(done)} so far.**\n\n" if done else ""
    return (
        unfinished
        + markdown_table(header, rows)
        + f"\n{read_table(summaries)}\n\n![Accuracy over time](accuracy-speed.png)\n\n"
        + "".join(f"- {note}\n" for note in notes)
    )


def read_table(summaries: Sequence[Summary]) -> str:
    """What the table says, in a paragraph; it follows from the numbers alone."""
    by_dice = sorted(summaries, key=lambda each: -each.dice_of_vessels)
    best, others = by_dice[0], by_dice[1:]
    sentences = [
        f"{best.name} has the best cross-validated mean Dice on slices with vessels, {best.dice_of_vessels:.3f}."
    ]
    base = next((each for each in summaries if each.name == SHIPPED), None)
    if base is not None and others:
        gaps = {each.name: each.dice_of_vessels - base.dice_of_vessels for each in by_dice if each is not base}
        near = [f"{name} ({gap:+.3f})" for name, gap in gaps.items() if gap >= -NEAR]
        far = [f"{name} ({gap:+.3f})" for name, gap in gaps.items() if gap < -NEAR]
        sentences.append(
            f"Within {NEAR:g} of {SHIPPED} ({base.dice_of_vessels:.3f}), or above it: {', '.join(near) or 'none'}."
        )
        if far:
            sentences.append(f"Further below: {', '.join(far)}.")
    if empty := summaries[0].false_px:
        false_px = [f"{each.name} {sum(each.false_px.values()):,}" for each in summaries]
        sentences.append(
            f"In the mean of all slices {_listed([*empty])} without vessels counts as 1 or 0, by a single pixel; "
            f"pixels called vessel there: {', '.join(false_px)}."
        )
    fastest = min(summaries, key=lambda each: each.cost.seconds)
    front = [each for each in summaries if not any(_dominates(other, each) for other in summaries)]
    sentences.append(
        f"The fastest by torch is {fastest.name}, {fastest.cost.seconds:.2f} s a slice; no model is both more accurate "
        f"and faster than {_listed([each.name for each in front])}."
    )
    test = max(summaries, key=lambda each: each.test["dice_mean"])
    sentences.append(
        f"On {TEST}, {test.name} is ahead with {test.test['dice_mean']:.3f}. Differences below 0.02 may be "
        "chance: there is one seed."
    )
    return " ".join(sentences)


def _dominates(one: Summary, other: Summary) -> bool:
    return one.cost.seconds < other.cost.seconds and one.dice_of_vessels > other.dice_of_vessels


def _scores(there: pd.DataFrame) -> dict[str, float]:
    return {
        "dice_mean": float(there["dice"].mean()),
        "dice_pooled": dice_from_counts(*there[_COUNTS].sum().tolist()),
        "surface_dice_2d_1px": float(there["surface_dice_2d_1px"].mean()),
    }


def _cells(each: Summary) -> list[str]:
    scores = [f"{value:.3f}" for value in (each.dice_of_vessels, *each.learned.values(), *each.test.values())]
    if len(each.checkpoints) > 1:
        scores[1 + len(each.learned)] += f" ± {each.test_spread:.3f}"
    openvino, peak = each.cost.openvino_seconds, each.cost.peak_gib
    return [
        each.name,
        each.family,
        *scores,
        f"{each.cost.parameters:,}",
        f"{each.cost.gflop:.1f}",
        f"{each.steps * each.cost.step_seconds / 60:.1f}",
        f"{1 / each.cost.seconds:.2f}",
        "" if openvino is None else f"{1 / openvino:.2f}",
        "" if peak is None else f"{peak:.2f}",
    ]


def _trainings(summaries: Sequence[Summary]) -> str:
    """The recipe, and the rates that differ."""
    one = summaries[0].training
    rates = ", ".join(f"{each.name} {each.training.learning_rate:g}" for each in summaries)
    return (
        f"{one.epochs} epochs of {one.epoch_slices} windows of {one.window_size or one.preprocessing.roi_size} pixels, "
        f"{one.batch_size} a step, loss {one.loss}, averaged weights; peak rates: {rates}"
    )


def _short(name: str) -> str:
    return name.removesuffix("-native")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
