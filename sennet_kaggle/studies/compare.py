"""The report's comparison: trains experiments on one kidney, validates them on another, and writes it up."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..config import DEFAULT_INFERENCE, Training
from ..data.bits import fetch_mask
from ..data.splits import labelled_slices
from ..data.volume import Volume
from ..files import check_output_dir, replacing, write_whole
from ..inference.loading import load_predictors
from ..inference.predict import predict_probabilities
from ..models.checkpoint import Card, read_card
from ..models.identity import what_was_seen
from ..rendering import figure_to_png, markdown_table
from ..reports.curves import figure_of_curves
from ..reports.outlines import figure_of_predictions
from ..reports.report import SegmentedSlice, spread
from ..scoring.metrics import dice_counts, dice_from_counts
from ..submission.provenance import name_checkpoint
from ..training.train import fit
from ..training.training_state import HISTORY_NAME
from .experiments import REPORT_EXPERIMENTS, REPORTED_DICE, REPORTED_SEGFORMER_SLICES, SAM_ZERO_SHOT
from .plan import check_variants, open_test, plan
from .zero_shot import check_weights, run_zero_shot

_DRAWN_SLICES = 4
_MOST_COLUMNS = 12
"""Slices that the table has columns for; of more it has those that are drawn."""


@dataclass(frozen=True)
class Result:
    """One trained experiment and what it made of the test kidney."""

    training: Training
    trained_slices: int
    """Slices it learned from."""
    parameters: int
    history: pd.DataFrame
    threshold: float
    card: Card
    checkpoint: str
    """Name and hash of the checkpoint that was validated."""
    counts: dict[str, tuple[int, int, int]]
    """Pixels of label, prediction and both, by slice id."""
    drawn: list[SegmentedSlice]
    """A few of the slices."""


def compare(
    data_dir: Path | str,
    output_dir: Path | str,
    *,
    experiments: Sequence[str] = REPORT_EXPERIMENTS,
    test_volume: str = "kidney_2",
    seeds: Sequence[int] = (0,),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    sam_weights_path: Path | str | None = None,
) -> Path:
    """Trains experiments (or goes on with those that were stopped) and validates each on a kidney it has not seen.

    Args:
        data_dir: a folder in the competition's layout.
        output_dir: made if missing; gets `comparison.md`, `results.csv`, `curves.png`, `predictions.png`, and a
            folder `<experiment>/seed-<n>` per run.
        experiments: names; those of the report that are trained, when not given.
        test_volume: a kidney of `train/`; its labelled slices are the test.
        seeds: every experiment is trained once with each.
        overrides: settings changed, by a pattern of names such as "segformer-*"; later ones go before.
        sam_weights_path: for the experiment sam-zero-shot.

    Returns:
        The path of `comparison.md`.

    Raises:
        InputError: an unknown experiment or setting, the test kidney or its images among those of the training, no
            labelled slice in it, or as `fit`.
    """
    plans, output_dir = plan(experiments, seeds, overrides or {}, test_volume), Path(output_dir)
    check_output_dir(output_dir, ("comparison.md", "results.csv", "curves.png", "predictions.png"))
    if SAM_ZERO_SHOT in experiments:
        check_weights(sam_weights_path)  # before hours of training, not after
    volume = open_test(data_dir, test_volume)
    places = labelled_slices([volume])
    run_dirs = [output_dir / name / f"seed-{training.seed}" for name, training in plans]
    check_variants(plans, run_dirs, data_dir, places)
    results: dict[str, list[Result]] = {}
    for number, ((name, training), run_dir) in enumerate(zip(plans, run_dirs, strict=True), 1):
        print(f"{name}, seed {training.seed}", flush=True)
        checkpoint_path = fit(training, data_dir, run_dir, output_dir / "cache", f"model {number} of {len(plans)}")
        results.setdefault(name, []).append(validate_on(volume, checkpoint_path, run_dir, training))
    zero_shot = None
    if SAM_ZERO_SHOT in experiments:
        zero_shot = run_zero_shot(data_dir, output_dir / SAM_ZERO_SHOT, sam_weights_path, volume_names=(test_volume,))
    write_figures(output_dir, results)
    table = per_run(results)
    with replacing(output_dir / "results.csv") as temporary_path:
        table.to_csv(temporary_path, index=False, lineterminator="\n")
    seen = what_was_seen([result.card for runs in results.values() for result in runs], places, data_dir)
    text = write_up(results, zero_shot, f"{test_volume}, {seen.claim('no run')}", overrides or {})
    write_whole(output_dir / "comparison.md", text.encode())
    return output_dir / "comparison.md"


def validate_on(volume: Volume, checkpoint_path: Path, run_dir: Path, training: Training) -> Result:
    """Segments the labelled slices of a kidney with a checkpoint, at the checkpoint's own threshold.

    A slice is let go before the next one comes, but for those that are drawn.
    """
    card = read_card(checkpoint_path)
    (predictor,) = load_predictors([checkpoint_path], DEFAULT_INFERENCE)
    zs = [z for z in range(len(volume)) if volume.is_labelled(z)]
    shown, counts, drawn = spread(zs, _DRAWN_SLICES), {}, []
    probabilities = predict_probabilities(volume, [predictor], DEFAULT_INFERENCE, zs)
    for z, (slice_id, probability) in zip(zs, probabilities, strict=True):
        mask_gt = volume.label(z)
        mask = fetch_mask(probability, predictor.threshold, DEFAULT_INFERENCE.hysteresis)
        counts[slice_id] = dice_counts(mask_gt, mask)
        if z in shown:
            drawn.append(SegmentedSlice(slice_id, volume[z], mask, mask_gt))
    return Result(
        training=training,
        trained_slices=card.training.get("slices", len(card.trained_on)),
        parameters=sum(parameter.numel() for parameter in predictor.model.parameters()),
        history=pd.read_csv(run_dir / HISTORY_NAME),
        threshold=predictor.threshold,
        card=card,
        checkpoint=name_checkpoint(checkpoint_path),
        counts=counts,
        drawn=drawn,
    )


def per_run(results: Mapping[str, Sequence[Result]]) -> pd.DataFrame:
    """One row per run: the settings that differ, what it cost, and its Dice on each slice and over all."""
    rows = []
    for name, runs in results.items():
        for result in runs:
            counts = result.counts
            dice = {slice_id: dice_from_counts(*row) for slice_id, row in counts.items()}
            seconds = float(result.history["seconds"].median())
            per_epoch = result.training.epoch_slices or result.trained_slices
            rows.append(
                {
                    "experiment": name,
                    "loss": result.training.loss,
                    "seed": result.training.seed,
                    "parameters": result.parameters,
                    "epochs": len(result.history),
                    "training_loss": float(result.history["loss"].iloc[-1]),
                    "held_out_dice": float(result.history["held_out_dice"].max()),
                    "threshold": result.threshold,
                    **dice,
                    "mean": float(np.mean(list(dice.values()))),
                    "pooled": dice_from_counts(*np.sum(list(counts.values()), axis=0).tolist()),
                    "seconds_per_epoch": seconds,
                    "slices_per_second": per_epoch / seconds,
                }
            )
    return pd.DataFrame(rows)


def write_figures(output_dir: Path, results: Mapping[str, Sequence[Result]]) -> None:
    """Writes `curves.png` and `predictions.png`, of each experiment's first seed."""
    first = {name: runs[0] for name, runs in results.items()}
    curves = figure_of_curves({name: result.history for name, result in first.items()})
    write_whole(output_dir / "curves.png", figure_to_png(curves))
    rows = list(zip(*(result.drawn for result in first.values()), strict=True))
    predictions = figure_of_predictions(rows, list(first))
    predictions.suptitle(DEFAULT_INFERENCE.describe(), fontsize=9)
    write_whole(output_dir / "predictions.png", figure_to_png(predictions))


def write_up(
    results: Mapping[str, Sequence[Result]],
    zero_shot: pd.DataFrame | None,
    test: str,
    overrides: Mapping[str, Mapping[str, Any]],
) -> str:
    """The comparison as Markdown: the table, what was changed, and how it was made.

    Args:
        test: the test kidney, and what can be claimed of it.
    """
    runs = per_run(results)
    one = next(iter(results.values()))[0]
    slice_ids = [*one.counts] if len(one.counts) <= _MOST_COLUMNS else [each.slice_id for each in one.drawn]
    measures = [*slice_ids, "mean", "pooled"]
    header = ["experiment", "loss", "parameters", "epochs", "steps", "training loss", "held-out Dice", *measures]
    header += ["report", "s/epoch", "slices/s"]
    rows = []
    for name, group in runs.groupby("experiment", sort=False):
        first = results[name][0]
        rows.append(
            [
                name,
                first.training.loss,
                f"{first.parameters:,}",
                first.training.epochs,
                first.training.epochs * _steps_per_epoch(first),
                _over_seeds(group["training_loss"]),
                _over_seeds(group["held_out_dice"]),
                *(_over_seeds(group[measure]) for measure in measures),
                REPORTED_DICE.get(name, ""),
                f"{group['seconds_per_epoch'].mean():.1f}",
                f"{group['slices_per_second'].mean():.2f}",
            ]
        )
    if zero_shot is not None:
        union = zero_shot.set_index("slice")["dice_union"]
        cells = [f"{union[slice_id]:.3f}" for slice_id in slice_ids] + [f"{union.mean():.3f}", ""]
        rows.append([SAM_ZERO_SHOT, "", "", "", "", "", "", *cells, "", "", ""])
    every = [result for runs in results.values() for result in runs]
    seeds = sorted({result.training.seed for result in every})
    minutes = sum(result.history["seconds"].sum() for result in every) / 60
    shown = ", ".join(f"{dice:.3f}" for dice in REPORTED_SEGFORMER_SLICES)
    notes = [
        f"Dice on {test}, per slice, as their mean and pooled over all {len(one.counts)} labelled slices; epoch and "
        f"threshold were chosen on the held-out training slices. Seeds: {', '.join(map(str, seeds))}"
        + ("; mean ± standard deviation over them." if len(seeds) > 1 else "."),
        f"How the models were run, here and for that choice: {DEFAULT_INFERENCE.describe()}.",
        f"Checkpoints: {', '.join(f'{name} {each.checkpoint}' for name, runs in results.items() for each in runs)}.",
        f"The report gives three slices of a SegFormer, without its loss: {shown}.",
        *(f"Changed for `{pattern}`: {settings_text(changes)}." for pattern, changes in overrides.items()),
        f"Machine: {machine()}; {minutes:.0f} minutes of training in all.",
        f"Command: `{shlex.join(['python', '-m', 'sennet_kaggle', *sys.argv[1:]])}`",
    ]
    return markdown_table(header, rows) + "\n" + "".join(f"- {note}\n" for note in notes)


def _steps_per_epoch(result: Result) -> int:
    slices = result.training.epoch_slices or result.trained_slices
    return -(-slices // result.training.batch_size)


def _over_seeds(values: pd.Series) -> str:
    return f"{values.mean():.3f}" if len(values) == 1 else f"{values.mean():.3f} ± {values.std():.3f}"


def settings_text(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items())


def machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    processor = platform.processor() or platform.machine()
    return f"{processor} CPU, {os.cpu_count()} cores, {threads} thread{'s' * (threads != 1)}"
