"""Files that are either whole or not there, on disks that may be full; and where the shipped checkpoints lie."""

import contextlib
import errno
import functools
import hashlib
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .errors import FULL_DISK, InputError, OutputError

# What `predict` takes when no checkpoint is named: in an installed package its own folder, which the build fills from
# that of the repository, the one pushed as a Kaggle dataset.
PACKAGE_DIR = Path(__file__).resolve().parent
_INSTALLED_DIR, _REPOSITORY_DIR = PACKAGE_DIR / "checkpoints", PACKAGE_DIR.parent / "kernel" / "checkpoints"
SHIPPED_DIR = _INSTALLED_DIR if _INSTALLED_DIR.is_dir() else _REPOSITORY_DIR
_NAME_BYTES = 255
_ZEROS = 2**24


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to, and renames it when the block ends well.

    If the block fails, the temporary file is removed and what stood under `path` before stays.

    Raises:
        InputError: the folder of `path` is missing.
        OutputError: the file cannot be written; other errors of the block come out as they are.
    """
    path = Path(path)
    _check_parent(path)
    temporary_path = _temporary(path)
    try:
        yield temporary_path
        os.replace(temporary_path, path)
    except Exception as error:
        cause = _failed_write(error, (path, temporary_path))
        if cause is None:
            raise
        raise cannot_write(path, cause) from error
    finally:
        temporary_path.unlink(missing_ok=True)


@contextmanager
def replacing_dir(path: Path | str) -> Iterator[Path]:
    """As `replacing`, for a folder that is missing or empty; those above it are made, and removed if the block fails.

    Raises:
        OutputError: the folder cannot be made.
    """
    path = Path(path)
    with making_dir(path.parent):
        temporary_path = _temporary(path)
        make_dir(temporary_path)
        try:
            yield temporary_path
            os.replace(temporary_path, path)
        finally:
            shutil.rmtree(temporary_path, ignore_errors=True)


@contextmanager
def making_dir(path: Path | str) -> Iterator[None]:
    """Makes a folder and those above it; if the block fails, those that it made are removed where they are empty."""
    path = Path(path)
    made = [each for each in (path, *path.parents) if not each.exists()]
    make_dir(path)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty: something was finished before
            for each in made:
                each.rmdir()
        raise


def make_dir(path: Path | str) -> Path:
    """Makes a folder and those above it, unless it is there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path} ({error.strerror}): choose another", error) from error
    return Path(path)


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


def open_reserved(path: Path | str, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """A .npy file of zeros as a memory map whose room is taken at once: a full disk would kill the process later.

    Raises:
        OutputError: its disk has not the room.
    """
    try:
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        _take_room(path, array.offset)
    except OSError as error:
        size = format_size(math.prod(shape) * np.dtype(dtype).itemsize)
        raise OutputError(
            f"the disk of {Path(path).parent} has no room for {size} ({error.strerror}): make some, or use another",
            error,
        ) from error
    return array


def _take_room(path: Path | str, header: int) -> None:
    """Takes the room on disk of a file that holds zeros after its header; raises OSError where there is none."""
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        file.seek(header)
        for start in range(header, size, _ZEROS):
            file.write(bytes(min(_ZEROS, size - start)))


def check_output(path: Path | str, inputs: Iterable[Path | str] = ()) -> None:
    """Checks before the work that its result can be written, and leaves nothing behind.

    Args:
        path: the file to write; one that exists is replaced.
        inputs: files that the work reads and must not replace.

    Raises:
        InputError: a folder, a device or one of the inputs; a folder that is missing or cannot be written to; a name
            that is too long; a full disk.
    """
    path = Path(path)
    _check_parent(path)
    _check_kind(path)
    if path.exists() and any(Path(each).exists() and path.samefile(each) for each in inputs):
        raise InputError(f"cannot write {path}: it is also an input of this command, so name another file")
    _try_to_write(path)


def check_output_dir(path: Path | str, names: Iterable[str] = (), inputs: Iterable[Path | str] = ()) -> None:
    """As `check_output`, for a folder that will be made if it is missing.

    Args:
        path: the folder.
        names: the files that will be written in it.
        inputs: files that the work reads and must not replace.
    """
    path = Path(path)
    _check_name(path)
    existing = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not existing.is_dir():
        raise InputError(f"cannot make the folder {path}: {existing} is not a folder, so choose another")
    _try_to_write(existing / "output", path)
    if existing == path:
        for name in names:
            check_output(path / name, inputs)


def shipped_checkpoints() -> list[Path]:
    """The checkpoints that the package ships: those in kernel/checkpoints, or their copies in an installed package.

    Raises:
        InputError: there is none.
    """
    paths = sorted(path for path in SHIPPED_DIR.glob("*.safetensors") if not path.name.startswith("."))
    if not paths:
        raise InputError(f"{SHIPPED_DIR} has no checkpoint: train one, or name one with --checkpoint")
    return paths


def format_size(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.2g} MB"


def cannot_write(path: Path | str, error: OSError) -> OutputError:
    """What to say of a file that could not be written, for this reason."""
    reason = error.strerror or str(error)
    if error.errno in FULL_DISK:
        return OutputError(f"cannot write {path}: the disk has no room ({reason}): make some, or use another", error)
    return OutputError(f"cannot write {path} ({reason}): choose a name in a folder that can be written to", error)


def _temporary(path: Path) -> Path:
    """A name for this process beside a path, short enough where the path's own is just so."""
    name = os.fsdecode(os.fsencode(path.name)[: _NAME_BYTES - 20])
    return path.with_name(f".{name}.{os.getpid()}.tmp")


def _check_parent(path: Path) -> None:
    _check_name(path)
    if not path.parent.is_dir():
        found = ", it is a file" if path.parent.exists() else ""
        raise InputError(f"cannot write {path}: there is no folder {path.parent}{found}")


def _check_name(path: Path) -> None:
    """Refuses names that are too long, which the checks of what is there would stumble over."""
    for part in path.parts:
        if len(os.fsencode(part)) > _NAME_BYTES:
            raise InputError(
                f"cannot write {path}: a name may have {_NAME_BYTES} bytes, {part[:20]}… has {len(os.fsencode(part))}"
            )
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise cannot_write(path, error) from error


def _check_kind(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder, so name a file in it")
    if (path.exists() and not path.is_file()) or path.parent.resolve() == Path("/dev"):
        raise InputError(f"cannot write {path}: it is a device or a pipe, so name a file")


def _try_to_write(path: Path, shown: Path | None = None) -> None:
    """Writes a byte under a temporary name, and removes it."""
    temporary_path = _temporary(path)
    try:
        with open(temporary_path, "xb") as file:
            file.write(b"\0")
    except FileExistsError:  # what a killed process of this number left: its folder can be written to
        pass
    except OSError as error:
        raise cannot_write(shown or path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary_path.unlink(missing_ok=True)


def _failed_write(error: Exception, paths: tuple[Path, Path]) -> OSError | None:
    """The system's reason for a write that failed, where that is what an exception is about."""
    if isinstance(error, InputError):
        return None
    if isinstance(error, UnicodeEncodeError):
        return OSError(errno.EILSEQ, "it would hold a name that is not UTF-8")
    number = re.search(r"\(os error (\d+)\)", str(error))  # of safetensors, which is written in Rust
    if number:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):  # torch raises errors of its own about ours
        cause = cause.__cause__ or cause.__context__
    ours = cause is not None and (cause.errno in FULL_DISK or cause.filename in map(str, paths))
    return cause if ours else None
