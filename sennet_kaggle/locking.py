"""Folders that one process at a time writes to: an output, which is refused to others, and a cache, where they wait."""

import contextlib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from .errors import InputError, one_line, say
from .files import make_dir

_LOCK = ".lock"
# What systems say of a file that another process has locked.
_TAKEN = (errno.EACCES, errno.EAGAIN)
# A longer wait is reported.
_SILENT_WAIT_SECONDS = 2.0


@contextmanager
def claim_dir(path: Path | str) -> Iterator[None]:
    """Makes an output folder and keeps other processes from claiming it.

    Where the block fails before anything of use is in it, the folder is removed again.

    Raises:
        InputError: as `make_dir`, another process has claimed it, or the disk knows no locks.
    """
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    is_new = path in missing or (path.is_dir() and not any(path.iterdir()))
    with open(make_dir(path) / _LOCK, "a") as lock:
        try:
            _lock(lock)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise InputError(_no_locks(path, error)) from error
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


@contextmanager
def take_turns(lock_path: Path) -> Iterator[None]:
    """Waits until no other process is in such a block with the same file, and says so where that takes long.

    Args:
        lock_path: made, and left there; its folder is made if missing.

    Raises:
        InputError: as `make_dir`, or the disk knows no locks.
    """
    from .distributed import global_rank  # torch comes with it

    lock = FileLock(lock_path)
    try:
        _acquire(lock, lock_path, _SILENT_WAIT_SECONDS)
    except Timeout:
        if global_rank() == 0:
            say(f"waiting for another process, which writes to {lock_path.parent}")
        _acquire(lock, lock_path)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, lock_path: Path, timeout: float = -1) -> None:
    while True:
        make_dir(lock_path.parent)
        try:
            lock.acquire(timeout)
            return
        except (Timeout, PermissionError):
            raise
        except (OSError, NotImplementedError) as error:
            if isinstance(error, FileNotFoundError) and not lock_path.is_symlink():
                continue  # the process that held it failed and removed its new folder
            raise InputError(_no_locks(lock_path.parent, error)) from error


def _no_locks(path: Path, error: Exception) -> str:
    return f"{path} cannot be locked against other processes ({one_line(error)}): choose a folder on another disk"


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
