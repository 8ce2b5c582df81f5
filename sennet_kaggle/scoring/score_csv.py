"""A submission against the truth: which slices are scored, and what the competition and we make of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import InputError, warn
from ..progress import progress_bar
from ..submission.rle import MaskCheck, rle_decode
from ..submission.submission import read_unique_rows, refuse, warn_of_masks
from .score import KidneyScorer, Scores, add_remark
from .truth import Truth, kidney_of, known_kidneys, open_truth, sizes_of_images, sizes_of_rows


@dataclass(frozen=True)
class Scored:
    """What `score_submission` found."""

    kidneys: dict[str, Scores]
    """In natural order of name."""
    slices: pd.DataFrame
    """A row per slice: slice, surface_dice_2d_1px, dice, vessel_px, predicted_px, common_px, and cl_dice on demand."""


def score_submission(
    submission_path: Path | str,
    labels_path: Path | str,
    size: Sequence[str] = (),
    centerlines: bool = False,
    labelled_only: bool = False,
    data_dir: Path | str | None = None,
) -> Scored:
    """Scores a submission against labels or against another submission.

    Args:
        submission_path: the csv to score; the order of its rows does not matter.
        labels_path: a folder with labels, or a csv with the columns of a submission (see `truth.open_truth`). Kidneys
            of which the submission has no slice are left out.
        size: of the masks of a csv (see `truth.parse_sizes`).
        centerlines: also compute clDice.
        labelled_only: leave out slices of the submission that have no label, instead of refusing them.
        data_dir: a folder in the competition's layout whose images tell how large the masks are.

    Raises:
        InputError: ids are missing, extra or repeated, a row is malformed, or a mask does not fit; each is named.
    """
    rles = read_unique_rows(submission_path)
    known = known_kidneys(labels_path, data_dir)
    kidneys = {kidney_of(slice_id, known) for slice_id in rles}
    sizes = {str(submission_path): sizes_of_rows(rles, submission_path, known)}
    if data_dir is not None:
        sizes[f"the images of {data_dir}"] = sizes_of_images(data_dir, sorted(kidneys))
    truth = open_truth(labels_path, kidneys, size, sizes, known)
    scored, left_out = _choose_slices(submission_path, rles, truth, labelled_only)
    scorers = _score_slices(submission_path, labels_path, rles, truth, scored, centerlines)
    scores = {
        kidney: add_remark(scorer.compute(), kidney, truth, left_out[kidney]) for kidney, scorer in scorers.items()
    }
    tables = [scorer.slice_table(sum(scored[kidney], [])) for kidney, scorer in scorers.items()]
    return Scored(scores, pd.concat(tables, ignore_index=True))


def _choose_slices(
    path: Path | str, rles: Mapping[str, Mapping[str, str]], truth: Truth, labelled_only: bool
) -> tuple[dict[str, list[list[str]]], Counter[str]]:
    """The runs of slices to score by kidney, and how many of each kidney's slices are left out.

    Raises:
        InputError: slices without a label, unless only the labelled ones are asked for, or labels without a slice.
    """
    unlabelled = [slice_id for slice_id in rles if slice_id not in truth.labels]
    # Of a dense kidney that is scored by the labels of its sparse twin, the other slices were never asked for.
    of_twin = {kidney for kidney, name in truth.label_kidneys.items() if name != kidney and name.endswith("_sparse")}
    missing = [
        slice_id for slice_id in truth.labels if slice_id not in rles and truth.kidney_of(slice_id) not in of_twin
    ]
    problems = [f"{slice_id}: is missing" for slice_id in missing]
    if not labelled_only:
        problems += _unlabelled_problems(unlabelled, truth)
    remedy = "; --labelled-only leaves out slices without a label" if unlabelled and not labelled_only else ""
    refuse(path, problems, remedy)
    scored = [slice_id for slice_id in truth.labels if slice_id in rles]
    left_out = Counter(map(truth.kidney_of, unlabelled))
    if not scored:
        raise InputError(
            f"{path} has no labelled slice: expected at least one of {', '.join(list(truth.labels)[:3])}, …"
        )
    for kidney in left_out.keys() - truth.label_kidneys.keys():
        warn(f"{path}: {kidney} has no label; its {left_out[kidney]} rows are not scored")
    runs_of = truth.runs(scored)
    for kidney, runs in runs_of.items():
        if len(runs) > 1:
            warn(f"{kidney} has no slices to score between {runs[0][-1]} and {runs[1][0]} ({len(runs)} runs in all)")
    return runs_of, left_out


def _unlabelled_problems(slice_ids: Iterable[str], truth: Truth) -> list[str]:
    """A line per slice of a kidney with labels, and one for each kidney without any."""
    slice_ids = list(slice_ids)
    kidneys = Counter(kidney for kidney in map(truth.kidney_of, slice_ids) if kidney not in truth.label_kidneys)
    shown = [repr(slice_id)[1:-1][:100] for slice_id in slice_ids if truth.kidney_of(slice_id) not in kidneys]
    return [f"{slice_id}: has no label" for slice_id in shown] + [
        f"{repr(kidney)[1:-1][:100] or 'an id without a kidney'}: has no label for any of its {count} rows"
        for kidney, count in kidneys.items()
    ]


def _score_slices(
    submission_path: Path | str,
    labels_path: Path | str,
    rles: Mapping[str, Mapping[str, str]],
    truth: Truth,
    scored: Mapping[str, list[list[str]]],
    centerlines: bool,
) -> dict[str, KidneyScorer]:
    scorers = {kidney: KidneyScorer(centerlines) for kidney in scored}
    checks = {path: MaskCheck() for path in (submission_path, *([labels_path] if truth.is_submission else []))}
    fit = _FitCheck()
    problems = []
    runs = [(kidney, run) for kidney, runs in scored.items() for run in runs]
    with progress_bar("scoring", sum(len(run) for _, run in runs)) as progress:
        for kidney, run in runs:
            for slice_id in run:
                progress.update()
                mask_gt = truth.read(slice_id)
                try:
                    mask_pred = rle_decode(rles[slice_id]["rle"], *mask_gt.shape)
                except InputError as error:
                    problems.append(f"{slice_id}: {error}")
                    continue
                scorers[kidney].update(mask_gt, mask_pred, begins_run=slice_id == run[0])
                for check, mask in zip(checks.values(), (mask_pred, mask_gt), strict=False):
                    check.add(mask)
                fit.add(mask_gt, mask_pred)
    refuse(submission_path, problems)
    if not checks[submission_path].inverted:
        fit.warn(submission_path)
    for path, check in checks.items():
        warn_of_masks(path, check)
    return scorers


class _FitCheck:
    """Tells masks that would fit the labels better if their pixels were numbered in another way."""

    def __init__(self) -> None:
        self._common = self._further_on = self._turned = 0

    def add(self, mask_gt: np.ndarray, mask_pred: np.ndarray) -> None:
        """Counts what a slice's label and prediction, (H, W) bool each, have in common as it is and otherwise."""
        pixels_gt, pixels_pred = mask_gt.ravel(), mask_pred.ravel()
        self._common += np.count_nonzero(pixels_gt & pixels_pred)
        self._further_on += np.count_nonzero(pixels_gt[1:] & pixels_pred[:-1])
        if mask_gt.shape[0] == mask_gt.shape[1]:  # of which `MaskCheck` can tell nothing
            self._turned += np.count_nonzero(mask_gt & mask_pred.T)

    def warn(self, path: Path | str) -> None:
        """Says how the masks would fit better, if they would."""
        found = f"pixels in common with the labels instead of {self._common}"
        # Of sound masks a shift loses 5 to 15 %: those of a phantom, and two models' masks of kidney_3_dense.
        if self._further_on > 1.02 * self._common + 20:
            warn(
                f"{path}: the masks would have {self._further_on} {found} if they began one pixel later: if starts are "
                "counted from 0, add 1 to each"
            )
        if self._turned > 2 * self._common + 50:
            warn(f"{path}: the masks would have {self._turned} {found} if pixels were numbered column by column")
