"""What a run left in its folder, brought together for the report: masks and curves of one checkpoint, or it is said."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..config import DEFAULT_INFERENCE
from ..data.volume import Volume, find_volumes
from ..errors import InputError, one_line, warn
from ..files import check_output
from ..inference.loading import load_predictors
from ..inference.predict import predict_rows
from ..models.checkpoint import read_card
from ..models.identity import tell_learned, what_was_seen
from ..scoring.sweep import METRICS, find_plateau
from ..scoring.truth import Known, kidney_of, known_kidneys
from ..submission.provenance import (
    Origin,
    Stopwatch,
    hash_file,
    hash_package,
    name_checkpoint,
    read_origin,
    stamp_images,
    write_origin,
)
from ..submission.submission import read_submission, write_submission

# What a run's folder may hold and a report shows.
RUN_FILES = ("submission.csv", "checkpoint.safetensors", "metrics.csv", "sweep.csv")
_HISTORY = ("epoch", "loss", "held_out_dice")
_MADE_BY = "report"


@dataclass(frozen=True)
class Run:
    """A run's kidneys, masks and curves."""

    volumes: list[Volume]
    rles: Mapping[str, str]
    """Run-length encodings by slice id."""
    history: pd.DataFrame | None
    """Columns of a training run's metrics.csv."""
    sweep: pd.DataFrame | None
    """Columns of sweep.csv; its attrs have the plateau: plateau_low, plateau_high."""
    notes: list[str]
    """Sentences for the top of the page: what made the masks, how, and whether it had learned from these slices."""
    about: dict[str, str]
    """What made the masks, as far as it is known: values by what they are."""
    seen: dict[str, str]
    """Slices that the model has seen: "learned" or "chosen", by slice id."""

    @property
    def shown_notes(self) -> list[str]:
        """The notes without the first, where `about` says the same."""
        return self.notes[1:] if self.about else self.notes


def open_run(run_dir: Path | str, data_dir: Path | str, names: tuple[str, ...] = ()) -> Run:
    """Opens a run's folder; a training run's checkpoint first segments the kidneys.

    Those masks are left as `submission.csv`, with `submission.json` that says what made them, and taken again as long
    as checkpoint, settings and images are the same. A submission that came from elsewhere is never written to.

    Args:
        run_dir: has `submission.csv` or `checkpoint.safetensors`, and maybe `metrics.csv` and `sweep.csv`.
        data_dir: a folder in the competition's layout.
        names: kidneys; those of the submission, or those the checkpoint was trained on, when empty.

    Raises:
        InputError: there is neither a submission nor a checkpoint, the submission is of another checkpoint, or a
            kidney is not in `data_dir` or not in the submission.
    """
    run_dir = Path(run_dir)
    submission_path, checkpoint_path = run_dir / "submission.csv", run_dir / "checkpoint.safetensors"
    has_checkpoint = checkpoint_path.is_file()
    if not submission_path.is_file() and not has_checkpoint:
        raise InputError(f"{run_dir} is not a run: expected submission.csv or checkpoint.safetensors in it")
    history, sweep = _read_table(run_dir / "metrics.csv", _HISTORY), _read_table(run_dir / "sweep.csv", ("threshold",))
    plateau_of = None if sweep is None else _add_plateau(sweep, run_dir / "sweep.csv")
    origin = read_origin(submission_path)
    if has_checkpoint and (not submission_path.is_file() or (origin and origin.made_by == _MADE_BY)):
        volumes = find_volumes(data_dir, names or _learned_kidneys(checkpoint_path, data_dir))
        _segment(checkpoint_path, volumes, submission_path, origin, known_kidneys(data_dir=data_dir))
        origin = read_origin(submission_path)
    elif has_checkpoint and origin and hash_file(checkpoint_path) not in origin.checkpoints:
        raise InputError(
            f"{submission_path} was made {origin.describe()}, but the checkpoint beside it is "
            f"{name_checkpoint(checkpoint_path)}: predict again with that, or move one of the two elsewhere"
        )
    else:
        volumes = []
    rles = dict(read_submission(submission_path))
    volumes = volumes or _find_segmented(data_dir, names, rles, submission_path)
    seen: dict[str, str] = {}
    notes = _notes_on_masks(submission_path, checkpoint_path, origin, volumes, data_dir, seen)
    if history is not None:
        notes.append(_note_on_curves(history, checkpoint_path))
    if sweep is not None:
        notes.append(f"Scores over thresholds: sweep.csv, which does not name its checkpoint; plateau of {plateau_of}.")
    return Run(volumes, rles, history, sweep, notes, _about(origin), seen)


def _about(origin: Origin | None) -> dict[str, str]:
    """What the page's header says of what made the masks."""
    if origin is None:
        return {}
    checkpoints = [f"{name}, sha256 {sha256[:12]}" for sha256, name in origin.checkpoints.items()]
    about = {"Checkpoint" + "s" * (len(checkpoints) > 1): "; ".join(checkpoints), "Settings": origin.settings()}
    if origin.devices:
        devices = ", ".join(f"{device} ({name})" for device, name in origin.devices.items())
        about["Device"] = f"{devices}, {origin.precision}"
    if origin.seconds:
        about["Time"] = ", ".join(f"{stage} {took:.1f} s" for stage, took in origin.seconds.items())
    return about | {"Made by": f"{origin.made_by}, package {origin.package_sha256[:12]}"}


def _learned_kidneys(checkpoint_path: Path, data_dir: Path | str) -> tuple[str, ...]:
    names = _kidneys(read_card(checkpoint_path).trained_on, data_dir)
    if not names:
        raise InputError(f"{checkpoint_path} does not say which kidneys it learned from: name some with --volume")
    return names


def _segment(
    checkpoint_path: Path, volumes: list[Volume], submission_path: Path, kept: Origin | None, known: Known
) -> None:
    """Segments the kidneys of which there are no masks of this checkpoint yet; those that there are stay."""
    package, checkpoint = hash_package(), hash_file(checkpoint_path)
    is_current = kept is not None and (kept.package_sha256, [*kept.checkpoints], kept.inference) == (
        package,
        [checkpoint],
        DEFAULT_INFERENCE,
    )
    if kept is not None and not is_current:
        what = name_checkpoint(checkpoint_path)
        warn(f"{submission_path} was made {kept.describe()}, not as it would be now by {what}: segmented anew")
    stamps = {volume.name: stamp_images(volume) for volume in volumes}
    images = dict(kept.images) if kept is not None and is_current else {}
    missing = [volume for volume in volumes if images.get(volume.name) != stamps[volume.name]]
    if not missing:
        return
    check_output(submission_path)
    new = {volume.name for volume in missing}
    old = read_submission(submission_path) if is_current else ()
    rows = [row for row in old if kidney_of(row[0], known) not in new]
    watch = Stopwatch()
    with watch.stage("load"):
        predictors = load_predictors([checkpoint_path], DEFAULT_INFERENCE)
    with watch.stage("segment"):
        rows += predict_rows(missing, predictors, DEFAULT_INFERENCE)
    write_submission(submission_path, rows)
    images |= {name: stamps[name] for name in new}
    devices = [predictor.device for predictor in predictors]
    write_origin(submission_path, _MADE_BY, [checkpoint_path], DEFAULT_INFERENCE, images, devices, watch.seconds)


def _find_segmented(
    data_dir: Path | str, names: Sequence[str], rles: Mapping[str, str], submission_path: Path
) -> list[Volume]:
    """The kidneys asked for, or all that a submission has."""
    there = _kidneys(rles, data_dir)
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(
            f"{submission_path} has no mask of {missing[0]}: expected one of {', '.join(there)}, or predict it first"
        )
    return find_volumes(data_dir, tuple(names) or there)


def _kidneys(slice_ids: Iterable[str], data_dir: Path | str) -> tuple[str, ...]:
    """The kidneys of slices, by the folders of `data_dir`."""
    known = known_kidneys(data_dir=data_dir)
    return tuple(sorted({kidney_of(slice_id, known) for slice_id in slice_ids}))


def _notes_on_masks(
    submission_path: Path,
    checkpoint_path: Path,
    origin: Origin | None,
    volumes: list[Volume],
    data_dir: Path | str,
    seen_slices: dict[str, str],
) -> list[str]:
    """Sentences on the masks; adds to `seen_slices` those that the model has seen."""
    if origin is None:
        if not checkpoint_path.is_file():
            return [f"Masks: {submission_path.name}; nothing says what made it or how."]
        name = name_checkpoint(checkpoint_path)
        warn(f"nothing says what made {submission_path}: {name} and the curves beside it may be of another model")
        return [f"Masks: {submission_path.name}; nothing says what made it: {name} and the curves may be another's."]
    notes = [f"Masks: {submission_path.name}, made {origin.describe()}."]
    for volume in volumes:
        places = {slice_id: (volume, z) for z, slice_id in enumerate(volume.slice_ids)}
        seen = what_was_seen(origin.cards, places, data_dir)
        tell_learned(seen.learned, len(places))
        notes.append(f"Images: {volume.name}, {seen.claim()}.")
        seen_slices |= dict.fromkeys(seen.chosen, "chosen") | dict.fromkeys(seen.learned, "learned")
    return notes


def _note_on_curves(history: pd.DataFrame, checkpoint_path: Path) -> str:
    """Whether the curves can be those of the checkpoint: its epoch is among them, with its score."""
    if not checkpoint_path.is_file():
        return "Curves: metrics.csv; there is no checkpoint beside it, so nothing says of which model they are."
    name, scores = name_checkpoint(checkpoint_path), read_card(checkpoint_path).scores
    epoch, score = scores.get("epoch"), scores.get("held_out_dice_pooled")
    if epoch is None:
        warn(f"{checkpoint_path} does not say of which epoch it is: the curves of metrics.csv may be of another run")
        return f"Curves: metrics.csv, maybe of another run: {name} does not say of which epoch it is."
    rows = history.loc[history["epoch"] == epoch, "held_out_dice"].tolist()
    same = bool(rows) and (score is None or abs(rows[-1] - score) < 1e-6)
    if not same:
        warn(f"metrics.csv has no epoch {epoch} with the score of {checkpoint_path}: its curves are of another run")
    return (
        f"Curves: metrics.csv, {'' if same else 'which is of another run, not '}of {name}, which is of epoch {epoch}."
    )


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame | None:
    """Reads a csv of numbers; None where there is none. What is no number becomes NaN.

    Raises:
        InputError: it cannot be read, or lacks one of the columns.
    """
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:  # of pandas, too: empty, not UTF-8, rows of several lengths
        raise InputError(
            f"{path} cannot be read as a csv ({one_line(error)}): make it again, or move it elsewhere"
        ) from error
    if not {*columns} <= {*table.columns}:
        found = ", ".join(map(str, table.columns))[:200]
        raise InputError(f"{path} must have the columns {', '.join(columns)}, found {found}")
    return table.apply(pd.to_numeric, errors="coerce")


def _add_plateau(sweep: pd.DataFrame, path: Path) -> str:
    """Finds the plateau of a sweep and adds it to its attrs.

    Returns:
        Of which metric it is: of slices that are far apart there is no Surface Dice in 3D.

    Raises:
        InputError: there is no metric, or none with a number.
    """
    metric = next((name for name in METRICS if name in sweep.columns), METRICS[0])
    table = sweep.dropna(subset=["threshold", metric]) if metric in sweep.columns else sweep[:0]
    if table.empty:
        raise InputError(f"{path} must have numbers in threshold and one of {', '.join(METRICS)}: run sweep again")
    table = table.sort_values("threshold")
    low, high, _ = find_plateau(table["threshold"].tolist(), table[metric].tolist())
    sweep.attrs.update(plateau_low=low, plateau_high=high)
    return metric
