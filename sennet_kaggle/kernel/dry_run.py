"""The whole submission locally: build the notebook, run it in a Kaggle-like tree without network, score it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pandas as pd

from ..data.phantom import KIDNEY_LIKE, write_phantom
from ..data.volume import Volume, find_volumes, open_volumes
from ..errors import InputError
from ..files import PACKAGE_DIR, check_output_dir, make_dir, shipped_checkpoints, write_whole
from ..rendering import figure_to_png
from ..reports.outlines import figure_of_slices
from ..reports.report import score_table, segmented_slice, spread
from ..scoring.metrics import dice_counts
from ..submission.submission import read_submission, refuse, validate_submission
from .fault_tolerant_volume import FaultTolerantVolume
from .faults import Faults

# What it makes in its output folder; `kaggle` is a tree.
_OUTPUTS = ("submission.csv", "submission.json", "sennet.ipynb", "scores.csv", "slices.png", "kaggle")
_NOTE_NAME, _MADE_BY = ".dry-run.json", "sennet_kaggle dry-run, which deletes these paths when it runs again"
_SECONDS_TO_END = 15.0
REPOSITORY = PACKAGE_DIR.parent
BUILD_PATH = REPOSITORY / "build_kernel.py"
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
    check_rehearsal(output_dir)
    output_dir = output_dir.resolve()
    kaggle_dir, checkpoint_paths = output_dir / "kaggle", checkpoint_paths or shipped_checkpoints()
    inputs = (*(path for volume in volumes for path in volume.paths), *checkpoint_paths, *filter(None, [notebook_path]))
    _check_apart(output_dir, inputs)
    with remaking(output_dir, _OUTPUTS):
        lay_out_kaggle(kaggle_dir, volumes, mount_layout, checkpoint_paths)
        if notebook_path is None:
            notebook_path = kaggle_dir / "built.ipynb"
            build = [sys.executable, str(BUILD_PATH), "--output", str(notebook_path)]
            _run(build, "building the notebook")
        run_notebook(notebook_path, output_dir / "sennet.ipynb", kaggle_dir, on_kaggle)
        submission_path = output_dir / "submission.csv"
        for path in (submission_path, submission_path.with_suffix(".json")):
            os.replace(kaggle_dir / "working" / path.name, path)
        if on_kaggle:  # a slice that could not be read there cannot be read here
            quiet = Faults(strict=False, say=lambda _: None)
            volumes = [
                FaultTolerantVolume(volume.name, volume.image_paths, volume.label_paths, faults=quiet)
                for volume in volumes
            ]
        refuse(submission_path, validate_submission(submission_path, volumes))
        return submission_path, *score(submission_path, volumes, output_dir)


@contextmanager
def remaking(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Deletes what an earlier block made under these names in a folder, and notes what this block makes there.

    Args:
        folder: made if missing; keeps the note.
        names: of files and folders in it.

    Raises:
        InputError: something lies there that no block has made.
    """
    check_own(folder, names)
    make_dir(folder)
    for path in (folder / name for name in names):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    _write_note(folder, names)  # what a killed run leaves is all its own
    try:
        yield
    finally:
        _write_note(folder, _files_under(folder, names))


def check_own(folder: Path, names: Sequence[str]) -> None:
    """Raises InputError where a file lies under these names that no `remaking` of the folder has made."""
    made = _read_note(folder)
    for path in _files_under(folder, names):
        if not any(path == each or path.startswith(f"{each}/") for each in made):
            raise InputError(
                f"{folder / path} was not made by dry-run, which would delete it: choose another --output-dir, or move "
                f"it away"
            )


def check_rehearsal(output_dir: Path) -> None:
    """Checks before the work that a rehearsal can be run and that its output folder can be its own.

    Raises:
        InputError: the folder cannot be written to, or holds something that is in the way; the package is not in a
            clone of its repository.
        ModuleNotFoundError: a package that runs notebooks is not installed.
    """
    for name in ("nbformat", "nbclient", "ipykernel"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    if not BUILD_PATH.is_file():
        raise InputError(
            f"dry-run builds the notebook from a clone of the repository, found no {BUILD_PATH.name} in {REPOSITORY}: "
            f"clone it and run the command there"
        )
    check_output_dir(output_dir)
    check_own(output_dir, _OUTPUTS)


def _files_under(folder: Path, names: Sequence[str]) -> list[str]:
    """All but folders with something in them under these names, as paths in the folder; no link is followed."""
    found = []
    for name in names:
        path = folder / name
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            found.append(name)
        for root, folders, files in os.walk(path) if path.is_dir() and not path.is_symlink() else ():
            links = [each for each in folders if os.path.islink(os.path.join(root, each))]
            ends = (*files, *links) if files or folders else ("",)  # an empty folder counts itself
            found += [os.path.relpath(os.path.join(root, each), folder) for each in ends]
    return sorted(found)


def _read_note(folder: Path) -> set[str]:
    try:
        note = json.loads((folder / _NOTE_NAME).read_text(encoding="utf-8"))
        return {*note["paths"]} if note["made_by"] == _MADE_BY else set()
    except (OSError, ValueError, TypeError, KeyError):  # none, or not ours
        return set()


def _write_note(folder: Path, paths: Iterable[str]) -> None:
    write_whole(folder / _NOTE_NAME, json.dumps({"made_by": _MADE_BY, "paths": sorted(paths)}, indent=1).encode())


def _check_apart(output_dir: Path, inputs: Iterable[Path]) -> None:
    """Raises InputError where a file to read would be deleted or replaced."""
    places = [output_dir / name for name in _OUTPUTS]
    for path in map(Path.absolute, inputs):
        if any(path.is_relative_to(place) or path.resolve().is_relative_to(place) for place in places):
            raise InputError(f"{path} lies in what dry-run replaces: choose another --output-dir than {output_dir}")


def run_notebook(notebook_path: Path, executed_path: Path, kaggle_dir: Path, on_kaggle: bool) -> None:
    """Executes a notebook in a Kaggle-like tree, without network where the system lets us.

    Raises:
        InputError: it failed.
    """
    prefix = network_prefix()
    print("running the notebook " + ("without network" if prefix else "(this system does not let us cut its network)"))
    # By its path and with -P: the notebook must find the package that it carries, not this one.
    runner = [sys.executable, "-P", str(Path(__file__).with_name("notebook.py"))]
    command = [*runner, str(notebook_path), str(executed_path)]
    environment = {"SENNET_KAGGLE_DIR": kaggle_dir} | ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"} if on_kaggle else {})
    _run([*prefix, *command, str(kaggle_dir / "working")], "the notebook", environment)


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
        counts = [dice_counts(slice_.label, slice_.mask_pred) for slice_ in segmented]
        table = score_table([volume.slice_ids[z] for volume, z in labelled], counts)
        write_whole(output_dir / "scores.csv", table.to_csv(index=False).encode())
    pictured = [segmented_slice(volume, z, rles) for volume, z in spread(labelled or places)]
    picture_path = output_dir / "slices.png"
    write_whole(picture_path, figure_to_png(figure_of_slices(pictured)))
    return table, picture_path


def open_rehearsal_volumes(data_dir: Path | None, names: tuple[str, ...], phantom_dir: Path) -> list[Volume]:
    """The kidneys to rehearse on: those named, from `train/` or `test/`; a fresh phantom when nothing is given."""
    if data_dir is None:
        if names:
            raise InputError(f"volume {names[0]} needs --data-dir: the folder that holds train/ or test/")
        check_output_dir(phantom_dir)
        with remaking(phantom_dir, ("train/phantom",)):
            write_phantom(phantom_dir, "phantom", KIDNEY_LIKE)
        return open_volumes(phantom_dir, "train", ("phantom",))
    return find_volumes(data_dir, names)


def lay_out_kaggle(
    kaggle_dir: Path, volumes: Sequence[Volume], mount_layout: str, checkpoint_paths: Sequence[Path]
) -> None:
    """Makes `input/` with links to the slices (labels left out) and the checkpoints, and an empty `working/`."""
    competition, checkpoints = _MOUNTS[mount_layout]
    for volume in volumes:
        images_dir = kaggle_dir / "input" / competition / "test" / volume.name / "images"
        images_dir.mkdir(parents=True)
        for path in volume.image_paths:
            _link(images_dir / path.name, path.resolve())
    checkpoints_dir = kaggle_dir / "input" / checkpoints
    checkpoints_dir.mkdir(parents=True)
    for path in checkpoint_paths:
        _link(checkpoints_dir / path.name, path.resolve())
    (kaggle_dir / "working").mkdir()


def _link(link_path: Path, path: Path) -> None:
    """Makes a link to a file; a copy where the system does not let us link, as Windows by default."""
    try:
        link_path.symlink_to(path)
    except OSError:
        shutil.copyfile(path, link_path)


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


def _run(command: list[str], what: str, environment: Mapping[str, object] | None = None) -> None:
    """Runs a program and shows its output as it comes; it does not outlive this one's being stopped."""
    offline = {"HF_HUB_OFFLINE": "1"}
    extra = {key: str(value) for key, value in (environment or {}).items()}
    with subprocess.Popen(command, env={**os.environ, **offline, **extra}) as process:
        try:
            status = process.wait()
        except BaseException:
            process.terminate()  # it ends what it has started, and removes its temporary files
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
            process.kill()
            raise
    if status:
        raise InputError(f"{what} failed with exit status {status}: the reason stands above")
