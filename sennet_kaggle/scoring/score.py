"""The scores of a kidney, slice by slice in the memory of a few slices, and what they can be compared with."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..rendering import format_table
from .metrics import cl_dice, dice_counts, dice_from_counts, largest_object, surface_dice_at_tolerance
from .surface_dice import SurfaceDiceOfRuns
from .truth import Truth

# The shallowest kidney of the competition, kidney_6, has as many slices.
LEADERBOARD_SLICES = 501
_NOT_COMPARABLE = "cannot be compared with the leaderboard"


@dataclass(frozen=True)
class Scores:
    """Scores of one kidney, or their mean over kidneys; each 0..1, 1.0 where label and prediction are both empty.

    docs/metrics.md says more of each.
    """

    surface_dice: float | None
    """Surface Dice at tolerance 0 in 3D, the competition's metric; None where no two scored slices are neighbours."""
    surface_dice_2d_1px: float
    """Mean over the slices of each one's Surface Dice in 2D, contours up to a pixel apart in common."""
    dice_pooled: float
    """Dice over all pixels of all slices."""
    dice_mean: float
    """Mean over the slices of each one's Dice."""
    dice_without_largest: float
    """Pooled Dice without the pixels of the label's largest object in any one slice."""
    slices: int
    """How many were scored."""
    runs: int = 1
    """Stretches of consecutive slices that they form."""
    cl_dice: float | None = None
    """Mean over the slices of each one's clDice; None where it was not asked for."""
    remark: str | None = None
    """Why `surface_dice` cannot be compared with the leaderboard; None where it can."""


class KidneyScorer:
    """Takes a kidney's slices in order and gives its scores.

    See `SurfaceDiceOfRuns` for the Surface Dice where there are gaps.

    Args:
        centerlines: also compute clDice, which takes several times as long as all the rest.
    """

    def __init__(self, centerlines: bool = False) -> None:
        self._surface = SurfaceDiceOfRuns()
        self._counts: list[tuple[int, int, int]] = []
        self._near: list[float] = []
        self._centerlines: list[float] | None = [] if centerlines else None
        self._largest = (0, 0, 0)

    def update(
        self, mask_gt: np.ndarray, mask_pred: np.ndarray, largest: np.ndarray | None = None, begins_run: bool = False
    ) -> None:
        """Adds the next slice.

        Args:
            mask_gt: label, (H, W) bool.
            mask_pred: prediction, (H, W) bool.
            largest: `largest_object(mask_gt)`, where the caller has it already.
            begins_run: whether slices lie between this one and the one before.
        """
        counts = dice_counts(mask_gt, mask_pred)
        self._surface.update(mask_gt, mask_pred, begins_run)
        self._counts.append(counts)
        self._near.append(surface_dice_at_tolerance(mask_gt, mask_pred, 1.0))
        if self._centerlines is not None:
            self._centerlines.append(cl_dice(mask_gt, mask_pred))
        if counts[0] > self._largest[0]:  # otherwise the slice has no larger object
            largest = largest_object(mask_gt) if largest is None else largest
            self._largest = max(self._largest, dice_counts(largest, largest & mask_pred))

    def compute(self) -> Scores:
        """The scores of the slices so far, at least one."""
        pooled = np.sum(self._counts, axis=0)
        return Scores(
            surface_dice=self._surface.compute(),
            surface_dice_2d_1px=float(np.mean(self._near)),
            dice_pooled=dice_from_counts(*pooled.tolist()),
            dice_mean=float(np.mean([dice_from_counts(*counts) for counts in self._counts])),
            dice_without_largest=dice_from_counts(*(pooled - self._largest).tolist()),
            slices=len(self._counts),
            runs=self._surface.runs,
            cl_dice=None if self._centerlines is None else float(np.mean(self._centerlines)),
        )

    def slice_table(self, slice_ids: Sequence[str]) -> pd.DataFrame:
        """The scores of each slice, one row each, as far as a slice alone has them."""
        table = pd.DataFrame(self._counts, columns=["vessel_px", "predicted_px", "common_px"])
        table.insert(0, "slice", slice_ids)
        table.insert(1, "surface_dice_2d_1px", self._near)
        table.insert(2, "dice", [dice_from_counts(*counts) for counts in self._counts])
        return table if self._centerlines is None else table.assign(cl_dice=self._centerlines)


def add_remark(scores: Scores, kidney: str, truth: Truth, left_out: int = 0) -> Scores:
    """Adds why the Surface Dice of a kidney cannot be compared with the leaderboard, if it cannot.

    Args:
        scores: of the kidney.
        kidney: its name.
        truth: what it was scored against.
        left_out: how many of its slices were not scored.
    """
    remarks = depth_remarks(scores, left_out)
    if truth.label_kidneys[kidney] != kidney:
        remarks.append(f"the labels are those of {truth.label_kidneys[kidney]}")
    if truth.is_submission:
        remarks.append("the labels are a csv that is taken for the truth")
    return dataclasses.replace(scores, remark=f"{_NOT_COMPARABLE}: {'; '.join(remarks)}" if remarks else None)


def depth_remarks(scores: Scores, left_out: int = 0) -> list[str]:
    """Why the slices of a kidney give no Surface Dice that could be compared with the leaderboard; empty if they do.

    Args:
        scores: of the kidney.
        left_out: how many of its slices were not scored.
    """
    remarks = []
    if scores.surface_dice is None:
        remarks.append(f"no two of the {scores.slices} scored slices are neighbours, so there is no surface in 3D")
    elif scores.runs > 1:
        remarks.append(
            f"{scores.slices} slices in {scores.runs} runs, so only {scores.slices - scores.runs} layer(s) between "
            "neighbours are scored"
        )
    if left_out:
        remarks.append(f"{left_out} slices without a label are left out")
    if scores.slices < LEADERBOARD_SLICES and scores.runs == 1:
        remarks.append(
            f"a stack of {scores.slices}, whose first and last slice weigh more than in a kidney of "
            f"{LEADERBOARD_SLICES} slices or more"
        )
    return remarks


def mean_scores(scores: Mapping[str, Scores]) -> Scores:
    """The mean over kidneys, which is what the competition ranks by; `slices` and `runs` are sums.

    A score that one kidney does not have, the mean does not have either.
    """
    rows = [dataclasses.asdict(kidney) for kidney in scores.values()]
    means = {name: _mean([row[name] for row in rows]) for name in rows[0] if name != "remark"}
    sums = {name: sum(row[name] for row in rows) for name in ("slices", "runs")}
    remarked = [kidney for kidney, row in scores.items() if row.remark]
    return Scores(**{**means, **sums, "remark": f"{_NOT_COMPARABLE}: see {', '.join(remarked)}" if remarked else None})


def format_scores(scores: Mapping[str, Scores]) -> str:
    """The scores as a table: a row per kidney, then their mean; below it what they cannot be compared with."""
    rows = {**scores, "mean": mean_scores(scores)}
    table = pd.DataFrame([{"kidney": name, **dataclasses.asdict(row)} for name, row in rows.items()])
    table = table.drop(columns=["remark", *(["cl_dice"] if table["cl_dice"].isna().all() else [])])
    lines = [format_table(table.astype(object).where(table.notna(), "-")), *leaderboard_remarks(scores)]
    return "\n".join(lines)


def leaderboard_remarks(scores: Mapping[str, Scores]) -> list[str]:
    """A line for each kidney whose Surface Dice cannot be compared with the leaderboard."""
    return [f"{kidney}: surface_dice {row.remark}" for kidney, row in scores.items() if row.remark]


def scores_to_json(scores: Mapping[str, Scores], slices: pd.DataFrame | None = None) -> str:
    """The scores for other programs: {"kidneys": {name: scores}, "mean": scores}, and the slices where they are given.

    Beside the fields of `Scores` each says whether `surface_dice` is comparable with the leaderboard.
    """
    kidneys = {name: _as_json(row) for name, row in scores.items()}
    content = {"kidneys": kidneys, "mean": _as_json(mean_scores(scores))}
    if slices is not None:
        content["slices"] = slices.to_dict("records")
    return json.dumps(content, indent=2)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _as_json(scores: Scores) -> dict[str, object]:
    return {**dataclasses.asdict(scores), "comparable_with_leaderboard": scores.remark is None}
