"""A submission against the truth: the competition's score and Dice, slice by slice in the memory of a few slices."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from .errors import InputError
from .metrics import (
    SurfaceDice,
    cl_dice,
    dice_counts,
    dice_from_counts,
    largest_object,
    surface_dice_at_tolerance,
)
from .report import format_table
from .rle import rle_decode
from .submission import read_rows, refuse
from .tiff import read_mask
from .volume import open_labels

Truth = dict[str, Callable[[], np.ndarray]]
"""How to read the label of each slice, by slice id in the order of the stack."""


@dataclass(frozen=True)
class Scores:
    """Scores of one kidney, or their mean over kidneys; each 0..1, 1.0 where label and prediction are both empty."""

    surface_dice: float
    """The competition's metric: Surface Dice at tolerance 0 of the stacked slices."""
    surface_dice_1px: float
    """Mean over the slices of each one's Surface Dice in 2D, contours up to a pixel apart in common."""
    dice_pooled: float
    """Dice over all pixels of all slices."""
    dice_mean: float
    """Mean over the slices of each one's Dice."""
    dice_without_largest: float
    """Pooled Dice without the pixels of the label's largest object in any one slice."""
    slices: int
    cl_dice: float | None = None
    """Mean over the slices of each one's clDice; None where it was not asked for."""


class KidneyScorer:
    """Takes a kidney's slices in order and gives its scores.

    Args:
        centerlines: also compute clDice, which takes several times as long as all the rest.
    """

    def __init__(self, centerlines: bool = False) -> None:
        self._surface = SurfaceDice()
        self._counts: list[tuple[int, int, int]] = []
        self._near: list[float] = []
        self._centerlines: list[float] | None = [] if centerlines else None
        self._largest = (0, 0, 0)

    def update(self, mask_gt: np.ndarray, mask_pred: np.ndarray, largest: np.ndarray | None = None) -> None:
        """Adds the next slice.

        Args:
            mask_gt: label, (H, W) bool.
            mask_pred: prediction, (H, W) bool.
            largest: `largest_object(mask_gt)`, where the caller has it already.
        """
        counts = dice_counts(mask_gt, mask_pred)
        self._surface.update(mask_gt, mask_pred)
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
            surface_dice_1px=float(np.mean(self._near)),
            dice_pooled=dice_from_counts(*pooled.tolist()),
            dice_mean=float(np.mean([dice_from_counts(*counts) for counts in self._counts])),
            dice_without_largest=dice_from_counts(*(pooled - self._largest).tolist()),
            slices=len(self._counts),
            cl_dice=None if self._centerlines is None else float(np.mean(self._centerlines)),
        )


def score_submission(
    submission_path: Path | str,
    labels_path: Path | str,
    size: tuple[int, int] | None = None,
    centerlines: bool = False,
) -> dict[str, Scores]:
    """Scores a submission against labels or against another submission.

    Slices of a kidney are stacked in the order of their ids, as the competition does, whether or not
    some lie between them that have no label.

    Args:
        submission_path: the csv to score.
        labels_path: a folder with labels (see `volume.open_labels`), or a csv with the columns of a
            submission. Kidneys of which the submission has no slice are left out.
        size: (H, W) of the masks, needed for a csv without the columns height and width.
        centerlines: also compute clDice.

    Returns:
        Scores by kidney, in ascending order of name.

    Raises:
        InputError: ids are missing, extra or repeated, a row is malformed, or a mask does not fit; each is named.
    """
    rles = read_unique_rows(submission_path)
    truth = truth_of_kidneys(open_truth(labels_path, size), map(kidney_of, rles))
    problems = [f"{slice_id}: is missing" for slice_id in truth if slice_id not in rles]
    problems += [f"{slice_id}: has no label" for slice_id in rles if slice_id not in truth]
    scorers: dict[str, KidneyScorer] = {}
    if not problems:
        for slice_id, read_label in tqdm(truth.items(), unit="slice", desc="scoring", mininterval=1.0):
            mask_gt = read_label()
            try:
                mask_pred = rle_decode(rles[slice_id]["rle"], *mask_gt.shape)
            except InputError as error:
                problems.append(f"{slice_id}: {error}")
                continue
            scorers.setdefault(kidney_of(slice_id), KidneyScorer(centerlines)).update(mask_gt, mask_pred)
    refuse(submission_path, problems)
    return {kidney: scorer.compute() for kidney, scorer in sorted(scorers.items())}


def mean_scores(scores: Mapping[str, Scores]) -> Scores:
    """The mean over kidneys, which is what the competition ranks by; `slices` is their sum."""
    rows = [dataclasses.asdict(kidney) for kidney in scores.values()]
    means = {name: None if rows[0][name] is None else float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return Scores(**{**means, "slices": sum(row["slices"] for row in rows)})


def format_scores(scores: Mapping[str, Scores]) -> str:
    """The scores as a table: a row per kidney, then their mean."""
    rows = {**scores, "mean": mean_scores(scores)}
    table = pd.DataFrame([{"kidney": name, **dataclasses.asdict(row)} for name, row in rows.items()])
    return format_table(table.dropna(axis="columns", how="all"))


def scores_to_json(scores: Mapping[str, Scores]) -> str:
    """The scores for other programs: {"kidneys": {name: scores}, "mean": scores}."""
    kidneys = {name: dataclasses.asdict(row) for name, row in scores.items()}
    return json.dumps({"kidneys": kidneys, "mean": dataclasses.asdict(mean_scores(scores))}, indent=2)


def open_truth(labels_path: Path | str, size: tuple[int, int] | None = None) -> Truth:
    """Opens labels, or a submission that is taken for the truth, without reading a mask.

    Raises:
        InputError: neither a folder with labels nor a submission, or a csv that does not say how large
            its masks are.
    """
    labels_path = Path(labels_path)
    if labels_path.is_dir():
        return {slice_id: lambda path=path: read_mask(path) for slice_id, path in open_labels(labels_path).items()}
    rows = read_unique_rows(labels_path)
    truth: Truth = {}
    for slice_id, row in rows.items():
        height, width = size or _size_of(row, labels_path)
        truth[slice_id] = lambda rle=row["rle"], height=height, width=width: rle_decode(rle, height, width)
    return truth


def truth_of_kidneys(truth: Truth, kidneys: Iterable[str]) -> Truth:
    """Keeps the slices of some kidneys."""
    kidneys = set(kidneys)
    return {slice_id: read_label for slice_id, read_label in truth.items() if kidney_of(slice_id) in kidneys}


def read_unique_rows(path: Path | str) -> dict[str, dict[str, str]]:
    """Reads the rows of a submission by slice id; the texts, a few MB, are held in memory.

    Raises:
        InputError: as `read_rows`, or ids that come twice.
    """
    rows: dict[str, dict[str, str]] = {}
    repeated = []
    for row in read_rows(path):
        if row["id"] in rows:
            repeated.append(f"{row['id']}: comes twice")
        rows[row["id"]] = row
    refuse(path, repeated)
    return rows


def kidney_of(slice_id: str) -> str:
    """The kidney of a slice id, which is `<kidney>_<stem>`."""
    return slice_id.rpartition("_")[0]


def _size_of(row: Mapping[str, str], path: Path) -> tuple[int, int]:
    try:
        return int(row["height"]), int(row["width"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} does not say how large its masks are: give --size HEIGHT WIDTH") from error
