"""The folder of the checkpoint dataset: which of its files go up to Kaggle, and what is wrong with them."""

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..config import Inference
from ..errors import InputError
from ..inference.loading import load_predictors
from ..submission.provenance import hash_file

METADATA_NAME = "dataset-metadata.json"


class Contents(NamedTuple):
    """What a folder of checkpoints holds."""

    paths: list[Path]
    """The checkpoints, in ascending order, sound or not."""
    problems: list[str]
    """Why they must not go up as they are, one line each."""
    left_out: list[str]
    """Names of what the notebook would not use."""


def inspect_folder(folder: Path, inference: Inference) -> Contents:
    """Loads every checkpoint of a folder, as the notebook will, but on the CPU.

    Args:
        folder: may hold anything.
        inference: the notebook's settings, which a checkpoint must be able to follow.
    """
    inference = replace(inference, device="cpu", precision="float32", backend="torch", compile=False)
    contents = Contents([], [], [])
    seen: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix != ".safetensors" or path.is_dir():
            if path.name != METADATA_NAME:
                contents.left_out.append(f"{path.name}/" if path.is_dir() else path.name)
            continue
        if path.is_file():
            contents.paths.append(path)
        try:
            load_predictors([os.path.relpath(path)], inference)
        except InputError as error:
            contents.problems.append(str(error) if path.name in str(error) else f"{path.name}: {error}")
            continue
        digest = hash_file(path)
        if seen.setdefault(digest, path.name) != path.name:
            contents.problems.append(
                f"{path.name}: expected another checkpoint, found a copy of {seen[digest]}, which would count twice: "
                f"remove one"
            )
    return contents
