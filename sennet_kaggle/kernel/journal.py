"""What a run has done so far, line by line on disk: a run that was killed goes on from it, another process is told."""

import json
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from ..submission.provenance import (
    hash_file,
)

Entry = list[Any]
"""What kind of entry it is, and its fields."""


class Journal:
    """A file of checked lines; the first says of what run it is.

    Args:
        path: of the file.
        key: all that its entries depend on. A journal of that key is gone on with, another is replaced.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, key: str):
        is_new = read_journal(path, key) is None
        self._file: BinaryIO = open(path, "wb" if is_new else "ab", buffering=0)
        if is_new:
            self._file.write(_line(key))

    def write(self, entry: Entry) -> None:
        """Adds an entry, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        self._file.write(_line(entry))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_journal(path: Path, key: str) -> list[Entry] | None:
    """Reads what a run has done, also while it goes on.

    Args:
        path: the journal.
        key: what its first line must say.

    Returns:
        The entries whose lines are whole; None where there is no journal of that key.
    """
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    whole = [line[9:] for line in lines if line[:9] == _checksum(line[9:])]
    if not whole or json.loads(whole[0]) != key:
        return None
    return [json.loads(line) for line in whole[1:]]


def _line(content: str | Entry) -> bytes:
    """A line with its checksum; it begins a new one in case the last was cut short."""
    encoded = json.dumps(content).encode()
    return b"\n" + _checksum(encoded) + encoded + b"\n"


def _checksum(encoded: bytes) -> bytes:
    return b"%08x " % zlib.crc32(encoded)


def identify_file(path: Path) -> str | tuple[int, ...]:
    """The hash of a checkpoint, or what else there is to know it by."""
    try:
        return hash_file(path)
    except OSError:
        return stamp_file(path)


def stamp_file(path: Path) -> tuple[int, ...]:
    """By which a file is known to be the same; of one that is not there, nothing."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_size, stat.st_mtime_ns
