"""What the notebook's last cells call: find the inputs, segment every test kidney, write and show the submission."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from .config import Inference
from .errors import InputError
from .predict import load_predictors, predict_rows
from .report import figure_of_slices, figure_to_png, segmented_slice
from .rle import parse_runs
from .submission import read_submission, refuse, validate_submission, write_submission
from .volume import open_volumes

# Where Kaggle mounts an attached input under /kaggle/input, its old layout first.
COMPETITION_MOUNTS = ("{slug}", "competitions/{slug}")
CHECKPOINT_MOUNTS = ("{slug}", "datasets/*/{slug}", "models/*/{slug}/*/*/*")


@dataclass(frozen=True)
class KernelSettings:
    """What the notebook's settings cell says."""

    input_dir: Path = Path("/kaggle/input")
    submission_path: Path = Path("/kaggle/working/submission.csv")
    competition: str = "blood-vessel-segmentation"
    """Slug of the competition."""
    checkpoint_source: str = "sennet-kaggle-checkpoints"
    """Slug of the dataset or model that holds the *.safetensors files; all of them are used, averaged."""
    inference: Inference = field(default_factory=Inference)


def run_kernel(settings: KernelSettings) -> None:
    """Segments every slice of every test kidney and writes the submission.

    Raises:
        InputError: an input is not attached, or cannot be read; the message says what is mounted.
    """
    data_dir, checkpoint_paths = find_inputs(settings)
    print(f"competition data: {data_dir}")
    volumes = open_volumes(data_dir, "test")
    predictors = load_predictors(checkpoint_paths, settings.inference)
    for path, predictor in zip(checkpoint_paths, predictors, strict=True):
        print(f"checkpoint: {path} on {predictor.device}, {predictor.dtype}, threshold {predictor.threshold}")
    write_submission(settings.submission_path, predict_rows(volumes, predictors, settings.inference))
    refuse(settings.submission_path, validate_submission(settings.submission_path, volumes))
    print(f"{settings.submission_path}: {sum(map(len, volumes))} rows, one per test slice, valid")


def count_vessels(settings: KernelSettings) -> pd.DataFrame:
    """Counts what the submission says.

    Returns:
        A row per kidney: its slices, those with vessels, vessel pixels, and their share of all pixels in percent.
    """
    rles = dict(read_submission(settings.submission_path))
    rows = []
    for volume in open_volumes(find_inputs(settings)[0], "test"):
        pixels = [_count_pixels(rles[slice_id]) for slice_id in volume.slice_ids]
        area = sum(int(np.prod(volume.slice_size(z))) for z in range(len(volume)))
        rows.append((volume.name, len(volume), np.count_nonzero(pixels), sum(pixels), 100 * sum(pixels) / area))
    return pd.DataFrame(rows, columns=["kidney", "slices", "with_vessels", "vessel_px", "vessel_percent"])


def picture_of_submission(settings: KernelSettings, rows: int = 4) -> bytes:
    """Draws masks of the submission over their slices, from every kidney those with the most runs.

    Args:
        rows: how many slices, shared out among the kidneys.

    Returns:
        A PNG file's bytes.
    """
    rles = dict(read_submission(settings.submission_path))
    volumes = open_volumes(find_inputs(settings)[0], "test")
    per_kidney = -(-rows // len(volumes))
    slices = []
    for volume in volumes:
        # A long text is a mask with many vessels, and need not be decoded to be found.
        busiest = sorted(range(len(volume)), key=lambda z: -len(rles[volume.slice_ids[z]]))
        slices += [segmented_slice(volume, z, rles) for z in sorted(busiest[:per_kidney])]
    return figure_to_png(figure_of_slices(slices[:rows]))


def find_inputs(settings: KernelSettings) -> tuple[Path, list[Path]]:
    """Finds the competition's folder and the checkpoints, in Kaggle's old or new mount layout.

    Returns:
        The folder that holds `test/`, and the checkpoint files in ascending order.

    Raises:
        InputError: one of them is not there; the message lists what is mounted and says what to attach.
    """
    data_dirs = _mounted(settings.input_dir, COMPETITION_MOUNTS, settings.competition, "test")
    if not data_dirs:
        raise InputError(
            f"the competition {settings.competition!r} is not attached (no test/ folder of it under "
            f"{settings.input_dir}): add it as an input of the notebook. Mounted: {_inventory(settings.input_dir)}"
        )
    checkpoint_paths = _mounted(settings.input_dir, CHECKPOINT_MOUNTS, settings.checkpoint_source, "*.safetensors")
    if not checkpoint_paths:
        raise InputError(
            f"no *.safetensors of {settings.checkpoint_source!r} under {settings.input_dir}: add that dataset as "
            f"an input of the notebook. Mounted: {_inventory(settings.input_dir)}"
        )
    return data_dirs[0].parent, checkpoint_paths


def _mounted(input_dir: Path, mounts: Sequence[str], slug: str, wanted: str) -> list[Path]:
    """What there is of an input in the first layout that has any."""
    for mount in mounts:
        found = sorted(input_dir.glob(f"{mount.format(slug=slug)}/{wanted}"))
        if found:
            return found
    return []


def _inventory(input_dir: Path) -> str:
    folders = sorted(
        str(path.relative_to(input_dir))
        for depth in ("*", "*/*", "*/*/*")
        for path in input_dir.glob(depth)
        if path.is_dir()
    )
    return ", ".join(folders[:20]) or "nothing"


def _count_pixels(rle: str) -> int:
    starts, ends = parse_runs(rle)
    return int((ends - starts).sum())
