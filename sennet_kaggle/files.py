"""Files that are either whole or not there, and where the shipped checkpoints lie."""

import fcntl
import functools
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

# Pushed as a Kaggle dataset, and what `predict` takes when no checkpoint is named.
SHIPPED_DIR = Path(__file__).resolve().parent.parent / "kernel" / "checkpoints"
_LOCK = ".lock"


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


def file_digest(path: Path | str) -> bytes:
    """The hash of a file's content, 64 bytes; a file that has not changed since is not read again."""
    status = os.stat(path)
    return _digest(str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=2**17)
def _digest(path: str, *version: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def make_dir(path: Path | str, what: str) -> Path:
    """Makes a folder where there is none.

    Args:
        path: with its parents.
        what: it is, such as "the cache".

    Raises:
        InputError: it cannot be made, or cannot be written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {what} folder {path} ({error.strerror}): choose another") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"cannot write to {what} folder {path}: choose another")
    return path


@contextmanager
def claim_dir(path: Path | str) -> Iterator[None]:
    """Makes an output folder and keeps other processes from claiming it.

    Where the block fails before anything of use is in it, the folder is removed again.

    Raises:
        InputError: as `make_dir`, or another process has claimed it.
    """
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    is_new = path in missing or (path.is_dir() and not any(path.iterdir()))
    with open(make_dir(path, "the output") / _LOCK, "a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which forked readers would go on holding
        except OSError as error:
            raise InputError(
                f"another process is writing to {path}: wait for it to end, or choose another output folder"
            ) from error
        try:
            yield
        except BaseException:
            if is_new and all(_is_scaffolding(each) for each in path.rglob("*") if each.is_file()):
                for each in sorted(path.rglob("*"), reverse=True):  # what is in a folder comes before it
                    each.rmdir() if each.is_dir() else each.unlink()
                for folder in missing:
                    if not any(folder.iterdir()):
                        folder.rmdir()
            raise


def _is_scaffolding(path: Path) -> bool:
    return path.name == _LOCK or "tfevents" in path.name


def shipped_checkpoints() -> list[Path]:
    """The checkpoints in kernel/checkpoints, which is pushed as the Kaggle dataset.

    Raises:
        InputError: there is none.
    """
    paths = sorted(SHIPPED_DIR.glob("*.safetensors"))
    if not paths:
        raise InputError(f"{SHIPPED_DIR} has no checkpoint: train one, or name one with --checkpoint")
    return paths
