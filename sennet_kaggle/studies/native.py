"""Models of several families with the recipe of the shipped one, trained and validated beside one another."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..checks import check_distinct, check_seeds, check_values
from ..config import THRESHOLDS, Training
from ..data.bits import fetch_mask
from ..data.splits import labelled_slices
from ..data.volume import Volume
from ..errors import InputError
from ..files import check_output_dir, file_digest, replacing, write_whole
from ..inference.loading import load_predictors
from ..models.checkpoint import read_card
from ..models.identity import what_was_seen
from ..rendering import figure_to_png
from ..reports.tradeoff import figure_of_tradeoff
from ..scoring.metrics import dice_counts, surface_dice_at_tolerance
from ..submission.provenance import name_checkpoint
from ..training.run_checks import CHECKPOINT_NAME
from ..training.train import fit
from ..training.training_state import HISTORY_NAME
from .experiments import EXPERIMENTS, FOLDS, NATIVE_EXPERIMENTS
from .held_out import LEARNED, ONE_SCALE, TEST, held_out_ids, predict_held_out
from .native_cost import measure_cost
from .native_table import Summary, points, summarise, write_up
from .plan import changed, check_variants, open_test

TABLE_NAME, PICTURE_NAME, RESULTS_NAME = "native.md", "accuracy-speed.png", "results.csv"


class Run(NamedTuple):
    """One training of the comparison."""

    name: str
    fold: int


def compare_native(
    data_dir: Path | str,
    output_dir: Path | str,
    experiments: Sequence[str] = NATIVE_EXPERIMENTS,
    seed: int = 0,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    weights_dir: Path | str | None = None,
) -> Path:
    """Trains each experiment once for each fold of the cross-validation, or goes on where it was stopped.

    A model's threshold is the middle of the plateau of the mean Dice on the slices of kidney_1_dense, each segmented
    by the model that has not seen it. Each of the models segments kidney_2 as well, which chooses nothing. What is
    there of the table and of the picture is written after each model of the first fold and after each later fold.

    Args:
        data_dir: a folder in the competition's layout, with kidney_1_dense and kidney_2.
        output_dir: made if missing; gets `native.md`, `results.csv`, `accuracy-speed.png`, and a folder
            `<experiment>/fold-<n>` per run.
        experiments: names of the group.
        seed: of all trainings.
        overrides: settings changed, by a pattern of names such as "*"; later ones go before.
        weights_dir: where the files of published weights are that some of the experiments start from.

    Returns:
        The path of `native.md`.

    Raises:
        InputError: an unknown experiment or setting, weights that are missing, or as `fit`.
    """
    runs, output_dir = plan(experiments, seed, overrides or {}, weights_dir), Path(output_dir)
    check_output_dir(output_dir, (TABLE_NAME, RESULTS_NAME, PICTURE_NAME))
    kidneys = {name: open_test(data_dir, name) for name in (LEARNED, TEST)}
    places = labelled_slices([kidneys[TEST]])
    run_dirs = {run: output_dir / run.name / f"fold-{run.fold}" for run in runs}
    variants = [(run.name, training) for run, training in runs.items()]
    check_variants(variants, [*run_dirs.values()], data_dir, places, [held_out_ids(run.fold) for run in runs])
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in experiments}
    summaries: dict[str, Summary] = {}
    cards = []
    for number, run in enumerate(sorted(runs, key=lambda run: run.fold)):
        model = number % len(experiments) + 1
        print(f"fold {run.fold + 1} of {len(FOLDS)}, model {model} of {len(experiments)}: {run.name}", flush=True)
        checkpoint_path = fit(runs[run], data_dir, run_dirs[run], output_dir / "cache")
        cards.append(read_card(checkpoint_path))
        tables[run.name].append(score_run(run_dirs[run], checkpoint_path, kidneys, run.fold))
        summaries[run.name] = _summarise(run, runs[run], run_dirs, tables[run.name], Path(data_dir) / "train" / LEARNED)
        print(summaries[run.name].line(), flush=True)
        if run.fold == 0 or model == len(experiments):  # otherwise the models have different folds
            claim = what_was_seen(cards, places, data_dir).claim("no run")
            write_results(output_dir, [*summaries.values()], len(experiments), claim, overrides or {})
    return output_dir / TABLE_NAME


def plan(
    experiments: Sequence[str],
    seed: int,
    overrides: Mapping[str, Mapping[str, Any]],
    weights_dir: Path | str | None,
) -> dict[Run, Training]:
    """The trainings to make, each with its settings, experiment by experiment.

    Raises:
        InputError: as `compare_native`.
    """
    check_seeds((seed,))
    check_distinct("experiments", tuple(experiments))
    for name in experiments:
        if name not in NATIVE_EXPERIMENTS:
            raise InputError(f"{name!r} is not of the group native: choose among {', '.join(NATIVE_EXPERIMENTS)}")
    for pattern, changes in overrides.items():
        if not fnmatch.filter(experiments, pattern):
            raise InputError(f"override {pattern!r} is of no chosen experiment: {', '.join(experiments)}")
        fixed = (
            sorted({"seed", "held_out_slices", "evaluate_every"} & {*changes}) if isinstance(changes, Mapping) else []
        )
        if fixed:
            raise InputError(f"override {pattern!r} has {fixed[0]}, which the comparison sets itself: leave it out")
    return {
        Run(name, fold): _training_of(Run(name, fold), seed, overrides, weights_dir)
        for name in experiments
        for fold in range(len(FOLDS))
    }


def score_run(run_dir: Path, checkpoint_path: Path, kidneys: Mapping[str, Volume], fold: int) -> pd.DataFrame:
    """Scores a model at every threshold on the slices that it has not learned from; what is kept is not done again.

    Args:
        run_dir: keeps the table as `scores.csv`.
        checkpoint_path: the model.
        kidneys: LEARNED and TEST, opened.
        fold: index of FOLDS.

    Returns:
        A row per slice and threshold: checkpoint (its hash), kidney, slice, threshold, vessel_px, predicted_px,
        common_px and surface_dice_2d_1px.
    """
    path, digest = run_dir / "scores.csv", file_digest(checkpoint_path).hex()
    if path.is_file():
        kept = pd.read_csv(path)
        if {*kept["checkpoint"]} == {digest}:
            return kept
    predictors = load_predictors([checkpoint_path], ONE_SCALE)
    rows = []
    for kidney in (LEARNED, TEST):
        for slice_id, mask_gt, probability in predict_held_out(predictors, kidneys, kidney, fold, ONE_SCALE):
            for threshold in THRESHOLDS:
                mask = fetch_mask(probability, threshold)
                near = surface_dice_at_tolerance(mask_gt, mask, 1.0)
                rows.append((digest, kidney, slice_id, threshold, *dice_counts(mask_gt, mask), near))
    counts = ("vessel_px", "predicted_px", "common_px")
    table = pd.DataFrame(rows, columns=["checkpoint", "kidney", "slice", "threshold", *counts, "surface_dice_2d_1px"])
    with replacing(path) as temporary_path:
        table.to_csv(temporary_path, index=False, lineterminator="\n")
    return table


def write_results(
    output_dir: Path,
    summaries: Sequence[Summary],
    wanted: int,
    claim: str,
    overrides: Mapping[str, Mapping[str, Any]],
) -> None:
    """Writes the table, its numbers and the picture of the experiments that are done, of so many."""
    table = pd.DataFrame([summary.row() for summary in summaries])
    with replacing(output_dir / RESULTS_NAME) as temporary_path:
        table.to_csv(temporary_path, index=False, lineterminator="\n")
    write_whole(output_dir / PICTURE_NAME, figure_to_png(figure_of_tradeoff(points(summaries))))
    write_whole(output_dir / TABLE_NAME, write_up(summaries, wanted, claim, overrides).encode())


def _summarise(
    run: Run, training: Training, run_dirs: Mapping[Run, Path], tables: Sequence[pd.DataFrame], volume_path: Path
) -> Summary:
    """What an experiment has come to with this run; its cost is that of its first model."""
    done = [run_dirs[Run(run.name, fold)] for fold in range(run.fold + 1)]
    checkpoint_paths = [run_dir / CHECKPOINT_NAME for run_dir in done]
    cost = measure_cost(checkpoint_paths[0], volume_path, training, done[0].parent / "cost.json")
    minutes = sum(pd.read_csv(run_dir / HISTORY_NAME)["seconds"].sum() / 60 for run_dir in done)
    return summarise(run.name, training, tables, cost, minutes, [name_checkpoint(path) for path in checkpoint_paths])


def _training_of(
    run: Run, seed: int, overrides: Mapping[str, Mapping[str, Any]], weights_dir: Path | str | None
) -> Training:
    training = EXPERIMENTS[run.name]
    if training.weights_path is not None and weights_dir is not None:
        training = dataclasses.replace(training, weights_path=str(Path(weights_dir) / training.weights_path))
    for pattern, changes in overrides.items():
        if fnmatch.fnmatchcase(run.name, pattern):
            training = changed(training, changes, pattern)
    check_values(training)
    return dataclasses.replace(
        training, seed=seed, held_out_slices=held_out_ids(run.fold), evaluate_every=training.epochs, workers=0
    )
