"""What a run left in its folder, brought together for the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .errors import InputError
from .files import check_output
from .submission import read_submission, write_submission
from .sweep import find_plateau
from .truth import kidney_of
from .volume import Volume, find_volumes

# What a run's folder may hold and a report shows.
RUN_FILES = ("submission.csv", "checkpoint.safetensors", "metrics.csv", "sweep.csv")


@dataclass(frozen=True)
class Run:
    """A run's kidneys, masks and curves."""

    volumes: list[Volume]
    rles: Mapping[str, str]
    """Run-length encodings by slice id."""
    history: pd.DataFrame | None
    """Columns of a training run's metrics.csv."""
    sweep: pd.DataFrame | None
    """Columns of sweep.csv; its attrs have the plateau of (2D) Surface Dice: plateau_low, plateau_high."""


def open_run(run_dir: Path | str, data_dir: Path | str, names: tuple[str, ...] = ()) -> Run:
    """Opens a run's folder; a training run's checkpoint first segments the kidneys and leaves `submission.csv`.

    Args:
        run_dir: has `submission.csv` or `checkpoint.safetensors`, and maybe `metrics.csv` and `sweep.csv`.
        data_dir: a folder in the competition's layout.
        names: kidneys; those of the submission, or those the checkpoint was trained on, when empty.

    Raises:
        InputError: there is neither a submission nor a checkpoint, or a kidney is not in `data_dir`.
    """
    run_dir = Path(run_dir)
    submission_path, checkpoint_path = run_dir / "submission.csv", run_dir / "checkpoint.safetensors"
    if not submission_path.is_file():
        if not checkpoint_path.is_file():
            raise InputError(f"{run_dir} is not a run: expected submission.csv or checkpoint.safetensors in it")
        _segment(checkpoint_path, data_dir, names, submission_path)
    rles = dict(read_submission(submission_path))
    volumes = find_volumes(data_dir, names or tuple(sorted(set(map(kidney_of, rles)))))
    sweep = _table(run_dir / "sweep.csv")
    if sweep is not None:
        # Of slices that are far apart there is no Surface Dice in 3D.
        metric = "surface_dice" if "surface_dice" in sweep.columns else "surface_dice_2d_1px"
        low, high, _ = find_plateau(sweep["threshold"].tolist(), sweep[metric].tolist())
        sweep.attrs.update(plateau_low=low, plateau_high=high)
    return Run(volumes, rles, _table(run_dir / "metrics.csv"), sweep)


def _segment(checkpoint_path: Path, data_dir: Path | str, names: tuple[str, ...], submission_path: Path) -> None:
    from .checkpoint import read_card
    from .config import Inference
    from .predict import load_predictors, predict_rows

    names = names or tuple(sorted(set(map(kidney_of, read_card(checkpoint_path).trained_on))))
    volumes = find_volumes(data_dir, names)
    check_output(submission_path)
    inference = Inference()
    predictors = load_predictors([checkpoint_path], inference)
    write_submission(submission_path, predict_rows(volumes, predictors, inference))


def _table(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path) if path.is_file() else None
