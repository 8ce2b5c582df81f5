"""The whole submission at home: build the notebook, run it in a Kaggle-like tree without network, score it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from .errors import InputError
from .faults import Faults
from .files import shipped_checkpoints, write_whole
from .metrics import dice_counts
from .phantom import Phantom, write_phantom
from .report import figure_of_slices, figure_to_png, score_table, segmented_slice
from .steady import SteadyVolume
from .submission import read_submission, refuse, validate_submission
from .volume import Volume, find_volumes, open_volumes

REPOSITORY = Path(__file__).resolve().parent.parent
_PICTURED_SLICES = 4
# Kaggle's mount points in its two layouts; the owner's name does not matter to the kernel.
_MOUNTS = {
    "old": ("blood-vessel-segmentation", "sennet-kaggle-checkpoints"),
    "new": ("competitions/blood-vessel-segmentation", "datasets/owner/sennet-kaggle-checkpoints"),
}


def rehearse(
    volumes: Sequence[Volume],
    output_dir: Path,
    mount_layout: Literal["old", "new"] = "new",
    notebook_path: Path | None = None,
    checkpoint_paths: Sequence[Path] = (),
    on_kaggle: bool = False,
) -> tuple[Path, pd.DataFrame | None, Path]:
    """Runs the built notebook over kidneys as if they were the test set, and scores the submission.

    Args:
        volumes: labelled or not; the notebook sees their images only.
        output_dir: gets `submission.csv` and `.json`, `sennet.ipynb` (executed), `scores.csv` and `slices.png`.
        mount_layout: which of Kaggle's layouts the inputs are mounted in.
        notebook_path: the notebook to run; built from the sources when not given.
        checkpoint_paths: what is attached as the checkpoint dataset; the shipped ones when none is given.
        on_kaggle: let the notebook think so: faults are survived, and the clock runs.

    Returns:
        The submission, the table of scores (None without labels), and the picture.

    Raises:
        InputError: the notebook failed, or its submission is not valid.
    """
    output_dir = output_dir.resolve()
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in (
        "submission.csv",
        "submission.json",
        "sennet.ipynb",
        "scores.csv",
        "slices.png",
    ):  # nothing of an earlier run stays
        (output_dir / name).unlink(missing_ok=True)
    if notebook_path is None:
        notebook_path = output_dir / "built.ipynb"
        build = [sys.executable, str(REPOSITORY / "build_kernel.py"), "--output", str(notebook_path)]
        _run(build, "building the notebook")
    kaggle_dir = output_dir / "kaggle"
    lay_out_kaggle(kaggle_dir, volumes, mount_layout, checkpoint_paths or shipped_checkpoints())
    prefix = network_prefix()
    print("running the notebook " + ("without network" if prefix else "(this system does not let us cut its network)"))
    # By its path and with -P: the notebook must find the package that it carries, not this one.
    runner = [sys.executable, "-P", str(Path(__file__).with_name("notebook.py"))]
    command = [*runner, str(notebook_path), str(output_dir / "sennet.ipynb")]
    environment = {"SENNET_KAGGLE_DIR": kaggle_dir} | ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"} if on_kaggle else {})
    _run([*prefix, *command, str(kaggle_dir / "working")], "the notebook", environment)
    (output_dir / "built.ipynb").unlink(missing_ok=True)

    submission_path = output_dir / "submission.csv"
    for path in (submission_path, submission_path.with_suffix(".json")):
        os.replace(kaggle_dir / "working" / path.name, path)
    if on_kaggle:  # a slice that could not be read there cannot be read here
        quiet = Faults(strict=False, say=lambda _: None)
        volumes = [SteadyVolume(volume.name, volume.image_paths, volume.label_paths, quiet) for volume in volumes]
    refuse(submission_path, validate_submission(submission_path, volumes))
    return submission_path, *score(submission_path, volumes, output_dir)


def score(submission_path: Path, volumes: Sequence[Volume], output_dir: Path) -> tuple[pd.DataFrame | None, Path]:
    """Scores the slices that have labels, and draws a few slices spread over the kidneys.

    Returns:
        The table of scores (None without labels), also written as `scores.csv`, and the path of the picture.
    """
    rles = dict(read_submission(submission_path))
    places = [(volume, z) for volume in volumes for z in range(len(volume))]
    labelled = [(volume, z) for volume, z in places if volume.is_labelled(z)]
    table = None
    if labelled:
        segmented = (segmented_slice(volume, z, rles) for volume, z in labelled)
        counts = [dice_counts(slice_.mask_gt, slice_.mask_pred) for slice_ in segmented]
        table = score_table([volume.slice_ids[z] for volume, z in labelled], counts)
        write_whole(output_dir / "scores.csv", table.to_csv(index=False).encode())
    candidates = labelled or places
    spread = np.unique(np.linspace(0, len(candidates) - 1, _PICTURED_SLICES).round().astype(int))
    pictured = [segmented_slice(*candidates[i], rles) for i in spread]
    picture_path = output_dir / "slices.png"
    write_whole(picture_path, figure_to_png(figure_of_slices(pictured)))
    return table, picture_path


def open_rehearsal_volumes(data_dir: Path | None, names: tuple[str, ...], phantom_dir: Path) -> list[Volume]:
    """The kidneys to rehearse on: those named, from `train/` or `test/`; a fresh phantom when nothing is given."""
    if data_dir is None:
        if names:
            raise InputError(f"volume {names[0]} needs --data-dir: the folder that holds train/ or test/")
        shutil.rmtree(phantom_dir / "train" / "phantom", ignore_errors=True)
        write_phantom(phantom_dir, "phantom", Phantom())
        return open_volumes(phantom_dir, "train")
    return find_volumes(data_dir, names)


def lay_out_kaggle(
    kaggle_dir: Path, volumes: Sequence[Volume], mount_layout: str, checkpoint_paths: Sequence[Path]
) -> None:
    """Makes `input/` with links to the slices (labels left out) and the checkpoints, and an empty `working/`."""
    for name in ("input", "working"):
        shutil.rmtree(kaggle_dir / name, ignore_errors=True)
    competition, checkpoints = _MOUNTS[mount_layout]
    for volume in volumes:
        images_dir = kaggle_dir / "input" / competition / "test" / volume.name / "images"
        images_dir.mkdir(parents=True)
        for path in volume.image_paths:
            (images_dir / path.name).symlink_to(path.resolve())
    checkpoints_dir = kaggle_dir / "input" / checkpoints
    checkpoints_dir.mkdir(parents=True)
    for path in checkpoint_paths:
        (checkpoints_dir / path.name).symlink_to(path.resolve())
    (kaggle_dir / "working").mkdir()


def network_prefix() -> list[str]:
    """Command prefix that starts a program in a network namespace of its own, which has no way out.

    Empty where the system does not let us make one; the hub libraries are told to stay offline all the same.
    """
    prefix = ["unshare", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        allowed = False
    return prefix if allowed else []


def _run(command: list[str], what: str, environment: dict[str, object] | None = None) -> None:
    """Runs a program and shows its output as it comes."""
    offline = {"HF_HUB_OFFLINE": "1"}
    extra = {key: str(value) for key, value in (environment or {}).items()}
    status = subprocess.run(command, env={**os.environ, **offline, **extra}, check=False).returncode
    if status:
        raise InputError(f"{what} failed with exit status {status}: the reason stands above")
