"""What is attached to the notebook, in Kaggle's old or new mount layout; or one line that says what is missing."""

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from ..errors import InputError, warn
from ..submission.provenance import hash_file

# Where Kaggle mounts an attached input under /kaggle/input, its old layout first.
COMPETITION_MOUNTS = ("{slug}", "competitions/{slug}")
CHECKPOINT_MOUNTS = ("{slug}", "datasets/{owner}/{slug}", "models/{owner}/{slug}")
# Below a model's mount its versions lie as framework/variation/version; the old layout does not tell it from a dataset.
_FRAMEWORKS = ("pytorch", "transformers", "keras", "jax", "flax", "onnx", "tensorflow2", "scikitlearn", "other")
_SHOWN = 20


def find_competition(input_dir: Path, slug: str) -> Path:
    """Finds the competition's folder, which holds `test/`, in Kaggle's old or new mount layout.

    Raises:
        InputError: it is not there; the message lists what is mounted and says what to attach.
    """
    for mount in COMPETITION_MOUNTS:
        folder = input_dir / mount.format(slug=slug)
        if (folder / "test").exists():
            return folder
    raise InputError(
        f"the competition {slug!r} is not attached (no test/ folder of it under "
        f"{input_dir}): add it as an input of the notebook. Mounted: {_inventory(input_dir)}"
    )


def find_checkpoints(input_dir: Path, source: str) -> list[Path]:
    """Finds the checkpoint files of one dataset, or of one version of one model, at any depth.

    Args:
        input_dir: where Kaggle mounts the inputs.
        source: the slug of the dataset or model; or owner/slug, where several owners have one of that slug.

    Returns:
        The files in ascending order, without hidden ones, and of equal files the first.

    Raises:
        InputError: there is none, and the message lists what is mounted; or several inputs are meant, and the message
            names them.
    """
    owner, _, slug = source.rpartition("/")
    mounts = [mount.format(owner=owner or "*", slug=slug) for mount in CHECKPOINT_MOUNTS]
    old, *others = ([path for path in sorted(input_dir.glob(mount)) if path.is_dir()] for mount in mounts)
    new = [*chain(*others)]
    folders = _distinct(new if owner and new else [*old, *new])  # the old layout does not tell the owner
    found: dict[Path, list[Path]] = {}
    for path in sorted(path for folder in folders for path in _checkpoints_below(folder)):
        found.setdefault(_input_of(path, folders), []).append(path)
    if len(found) > 1:
        names = " and ".join(str(folder.relative_to(input_dir)) for folder in found)
        raise InputError(
            f"the notebook needs one input {source!r} with checkpoints, found {names}: detach all but one, or name its "
            f"owner in the settings (checkpoint_source 'owner/{slug}')"
        )
    if not found:
        held = _shown(sorted(path.name for folder in folders for path in folder.iterdir()))
        raise InputError(
            f"no *.safetensors of {source!r} under {input_dir}{f' (it holds {held})' if folders else ''}: "
            f"add that dataset as an input of the notebook. Mounted: {_inventory(input_dir)}"
        )
    return _without_copies(*found.values())


def _distinct(folders: Iterable[Path]) -> list[Path]:
    """Without those that are the same folder, mounted in both layouts."""
    kept: list[Path] = []
    for folder in folders:
        if not any(os.path.samefile(folder, other) for other in kept):
            kept.append(folder)
    return kept


def _checkpoints_below(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*.safetensors") if not path.is_dir())
    return [path for path in paths if not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)]


def _input_of(path: Path, folders: Iterable[Path]) -> Path:
    """The mount that a file belongs to; of a model, that of the version."""
    folder = next(folder for folder in folders if path.is_relative_to(folder))
    parts = path.relative_to(folder).parts
    is_model = folder.parent.parent.name == "models" or parts[0].lower() in _FRAMEWORKS
    if len(parts) > 3 and is_model and parts[2].isdigit():
        return folder.joinpath(*parts[:3])
    return folder


def _without_copies(paths: list[Path]) -> list[Path]:
    """A model that is there twice would count twice."""
    first: dict[object, Path] = {}
    for path in paths:
        try:
            digest: object = hash_file(path)
        except OSError:  # for the loader to complain of
            digest = path
        if first.setdefault(digest, path) != path:
            warn(f"{path} is the same checkpoint as {first[digest]}: it is used once")
    return list(first.values())


def _inventory(input_dir: Path) -> str:
    """What is mounted, each input once."""
    depths = {"competitions": "*", "datasets": "*/*", "models": "*/*/*/*/*"}
    mounted = []
    for folder in sorted(path for path in input_dir.glob("*") if path.is_dir()):
        inside = folder.glob(depths[folder.name]) if folder.name in depths else ()
        mounted += sorted(path for path in inside if path.is_dir()) or [folder]
    return _shown([str(path.relative_to(input_dir)) for path in mounted])


def _shown(names: list[str]) -> str:
    return (", ".join(names[:_SHOWN]) or "nothing") + (", …" if len(names) > _SHOWN else "")
