"""Slices that a run has finished, kept beside its output until all are there, so that a killed run goes on."""

import glob
import hashlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import warn
from ..files import cannot_write, open_reserved, write_whole
from ..locking import claim_dir
from .scan import Scan

_KEY, _SLICES, _JOURNAL = "run.json", "slices.npy", "finished.txt"


def partial_dir(output_path: Path) -> Path:
    """Where the finished part of an output is kept until it is whole."""
    return output_path.with_name(f".{output_path.name}.unfinished")


class Partial:
    """The finished slices of a run, eight voxels of a mask in a byte.

    Args:
        folder: of `claim_run`.
        shape: D, H, W.
        dtype: bool, or uint8.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: np.dtype):
        self.shape, self.dtype = shape, np.dtype(dtype)
        size = math.prod(shape[1:])
        self._stride = -(-size // 8) if self.dtype == np.bool_ else size
        path = folder / _SLICES
        if not path.is_file():
            open_reserved(path, np.dtype(np.uint8), (shape[0], self._stride))
        self._header = os.path.getsize(path) - shape[0] * self._stride
        self._file = open(path, "r+b", buffering=0)
        self.finished = self._read_journal(folder / _JOURNAL)
        self._journal = open(folder / _JOURNAL, "ab", buffering=0)

    @property
    def missing(self) -> list[int]:
        """Slices that are still to be made, in ascending order."""
        return [z for z in range(self.shape[0]) if z not in self.finished]

    def put(self, z: int, slice_: np.ndarray) -> None:
        """Keeps a finished slice.

        Raises:
            OutputError: the disk is full.
        """
        packed = (np.packbits(slice_) if self.dtype == np.bool_ else np.ascontiguousarray(slice_, np.uint8)).tobytes()
        try:
            self._file.seek(self._header + z * self._stride)
            self._file.write(packed)
            self._journal.write(b"\n%d %08x\n" % (z, zlib.crc32(packed)))
        except OSError as error:
            raise cannot_write(Path(self._file.name), error) from error
        self.finished.add(z)

    def get(self, z: int) -> np.ndarray:
        """A finished slice, (H, W)."""
        packed = np.frombuffer(self._packed(z), np.uint8)
        if self.dtype == np.bool_:
            packed = np.unpackbits(packed, count=math.prod(self.shape[1:])).view(np.bool_)
        return packed.reshape(self.shape[1:])

    def close(self) -> None:
        """Closes the files; they stay."""
        self._file.close()
        self._journal.close()

    def _packed(self, z: int) -> bytes:
        self._file.seek(self._header + z * self._stride)
        return self._file.read(self._stride)

    def _read_journal(self, path: Path) -> set[int]:
        """The slices whose bytes are those that were written, also after a loss of power."""
        checksums = {}
        for line in path.read_bytes().split(b"\n") if path.is_file() else ():
            z, _, checksum = line.partition(b" ")
            if z.isdigit() and len(checksum) == 8 and int(z) < self.shape[0]:
                checksums[int(z)] = checksum
        return {z for z, checksum in checksums.items() if b"%08x" % zlib.crc32(self._packed(z)) == checksum}


@contextmanager
def claim_run(output_path: Path, key: Mapping[str, Any]) -> Iterator[Path]:
    """Gives the folder of a run's finished part, for this process alone; it stays where the block fails.

    Args:
        output_path: what the run is to make.
        key: all that its result depends on; what a run of another key has left there is removed, with a warning.
            Where nothing is finished, nothing stays.

    Raises:
        InputError: another process is at work there, or the folder cannot be made.
    """
    folder = partial_dir(output_path)
    written = json.dumps(key, sort_keys=True, default=str).encode()
    is_over = False
    try:
        with claim_dir(folder):
            path = folder / _KEY
            if path.is_file() and path.read_bytes() != written:
                warn(f"{folder} is of another run ({_changed(path, key)} changed): it is removed and all is made anew")
                _empty(folder)
            if not path.is_file():
                write_whole(path, written)
            for each in output_path.parent.glob(f".{glob.escape(output_path.name)}.*.tmp"):  # of a killed run
                shutil.rmtree(each) if each.is_dir() else each.unlink()
            try:
                yield folder
            except BaseException:
                is_over = not _has_finished(folder)
                if is_over:
                    _empty(folder)
                raise
            is_over = True
    finally:
        if is_over:
            shutil.rmtree(folder, ignore_errors=True)


def _empty(folder: Path) -> None:
    """Removes what is in a folder that this process has claimed."""
    for each in folder.iterdir():
        if each.name != ".lock":
            shutil.rmtree(each) if each.is_dir() else each.unlink()


def _has_finished(folder: Path) -> bool:
    """Whether there is something to go on from: a slice or a block."""
    journal = folder / _JOURNAL
    return (journal.is_file() and journal.stat().st_size > 0) or any(folder.glob("block-*"))


def _changed(path: Path, key: Mapping[str, Any]) -> str:
    try:
        before = json.loads(path.read_bytes())
        now = json.loads(json.dumps(key, default=str))
        return ", ".join(sorted(name for name in {*before, *now} if before.get(name) != now.get(name)))
    except (ValueError, AttributeError):
        return "what it was made of"


def identify_scan(scan: Scan) -> dict[str, Any]:
    """What tells a scan from others: its form, the sizes and times of its files, and the content of three slices."""
    content = hashlib.blake2b(digest_size=16)
    for z in sorted({0, len(scan) // 2, len(scan) - 1}):
        content.update(np.ascontiguousarray(scan.stored(z)).tobytes())
    return {
        "path": str(scan.path.absolute()),
        "level": scan.found.details.get("level"),
        "axes": scan.axes,
        "shape": list(scan.shape),
        "dtype": str(scan.found.source.dtype),
        "files": _stamp_files(scan.path),
        "content": content.hexdigest(),
    }


def _stamp_files(path: Path) -> str:
    """A hash over names, sizes and times of the files of a scan, without the labels in an OME-Zarr."""
    stamps = hashlib.blake2b(digest_size=16)
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(each for each in folders if each != "labels")
        for name in sorted(names):
            status = os.stat(os.path.join(folder, name))
            stamps.update(f"{os.path.relpath(folder, path)}/{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    if path.is_file():
        status = os.stat(path)
        stamps.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return stamps.hexdigest()
