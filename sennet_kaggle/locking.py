"""An output folder that one process at a time may write to."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import InputError
from .files import make_dir

_LOCK = ".lock"


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
    with open(make_dir(path) / _LOCK, "a") as lock:
        try:
            _lock(lock)
        except OSError as error:
            raise InputError(
                f"another process is writing to {path}: wait for it to end, or choose another output folder"
            ) from error
        try:
            yield
        except BaseException:
            if is_new and all(_is_scaffolding(each) for each in path.rglob("*") if each.is_file()):
                with contextlib.suppress(PermissionError):  # Windows keeps a lock that is open
                    for each in sorted(path.rglob("*"), reverse=True):  # what is in a folder comes before it
                        each.rmdir() if each.is_dir() else each.unlink()
                    for folder in missing:
                        if not any(folder.iterdir()):
                            folder.rmdir()
            raise


def _lock(file: IO) -> None:
    """Locks an open file until it is closed; raises OSError where another process has locked it."""
    try:
        import fcntl
    except ModuleNotFoundError:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # Windows' alone
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which forked readers would go on holding


def _is_scaffolding(path: Path) -> bool:
    return path.name == _LOCK or "tfevents" in path.name
