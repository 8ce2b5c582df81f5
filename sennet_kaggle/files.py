"""Files that are either whole or not there, and where the shipped checkpoints lie."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

# Pushed as a Kaggle dataset, and what `predict` takes when no checkpoint is named.
SHIPPED_DIR = Path(__file__).resolve().parent.parent / "kernel" / "checkpoints"


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to, and renames it when the block ends well.

    If the block fails, the temporary file is removed and what stood under `path` before stays.

    Raises:
        InputError: the folder of `path` is missing.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
    temporary_path = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary_path
        os.replace(temporary_path, path)
    finally:
        temporary_path.unlink(missing_ok=True)


def write_whole(path: Path | str, content: bytes) -> None:
    """Writes a file in one move (see `replacing`)."""
    with replacing(path) as temporary_path:
        temporary_path.write_bytes(content)


def shipped_checkpoints() -> list[Path]:
    """The checkpoints in kernel/checkpoints, which is pushed as the Kaggle dataset.

    Raises:
        InputError: there is none.
    """
    paths = sorted(path for path in SHIPPED_DIR.glob("*.safetensors") if not path.name.startswith("."))
    if not paths:
        raise InputError(f"{SHIPPED_DIR} has no checkpoint: train one, or name one with --checkpoint")
    return paths
