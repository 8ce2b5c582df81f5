"""The submission while it grows: a row for every test slice from the first second, finished ones safe from a kill."""

import json
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

from .errors import InputError
from .faults import Faults
from .rle import EMPTY_RLE
from .submission import read_submission, write_submission

# How old what stands in submission.csv may be while rows are being finished.
_SECONDS_BETWEEN_SAVES = 60.0


class Rows:
    """The rows of a submission, empty masks at first.

    Finished rows also go to a journal beside the submission, one checked line each, from which a run that was
    killed goes on.

    Args:
        path: submission.csv; written at once, whole, with an empty mask for every slice, unless one with these slices
            is there, which stays until it is known whether this run goes on from it (see `resume`).
        slice_ids: of every test slice, in order.
        faults: hears of a disk that is full.

    Raises:
        InputError: it cannot be written: without a place for the submission there is nothing to run for.
    """

    def __init__(self, path: Path, slice_ids: Iterable[str], faults: Faults):
        self.path, self.faults = path, faults
        self.rles = dict.fromkeys(slice_ids, EMPTY_RLE)
        self.finished: set[str] = set()
        self.key = ""
        self.journal_path = self.journal_of(path)
        self._journal = None
        self._saved = time.monotonic()
        self._is_earlier = bool(self._earlier_rows())
        if not self._is_earlier:
            write_submission(path, self.rles.items())

    @staticmethod
    def journal_of(path: Path) -> Path:
        """Where the journal of a submission lies."""
        return path.with_name(f"{path.name}.journal")

    def resume(self, key: str) -> None:
        """Takes over the rows that an earlier run with the same key finished, and opens the journal for more.

        Args:
            key: all that the rows depend on.
        """
        self.key = key
        journal = read_journal(self.journal_path, key)
        if journal is not None:
            finished = {slice_id: rle for slice_id, rle in journal if slice_id in self.rles}
            # What the journal lacks, since a fault touched it, is tried again, and stands there until then.
            self.rles |= self._earlier_rows() | finished
            self.finished |= finished.keys()
        try:
            self._journal = open(self.journal_path, "wb" if journal is None else "ab", buffering=0)
            if journal is None:
                self._journal.write(_line(key))
        except OSError as error:
            self._journal_failed(error)
        if self._is_earlier:
            self.save()

    def add(self, slice_id: str, rle: str, finished: bool = True) -> None:
        """Sets a slice's row.

        Args:
            slice_id: of the slice.
            rle: its mask.
            finished: whether a run that goes on need not try it again; False where a fault touched it.
        """
        self.rles[slice_id] = rle
        if finished:
            self.finished.add(slice_id)
            if self._journal:
                try:
                    self._journal.write(_line([slice_id, rle]))
                except OSError as error:
                    self._journal_failed(error)
        if time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
            self.save()

    def take_over(self, journal_path: Path) -> None:
        """Adds what another process with the same key has finished."""
        for slice_id, rle in read_journal(journal_path, self.key) or ():
            if slice_id in self.rles and slice_id not in self.finished:
                self.add(slice_id, rle)

    def save(self) -> None:
        """Writes the submission as it is now; where the disk is full the journal makes room for it."""
        self._saved = time.monotonic()
        for remedy in ("the journal is removed to make room", "the last one that was written stays, whole but older"):
            try:
                write_submission(self.path, self.rles.items())
                return
            except OSError as error:
                self.faults.note(self.path.name, f"cannot be written ({_reason(error)})", remedy)
                self.drop_journal()

    def drop_journal(self) -> None:
        """Removes the journal: the run has ended, or the disk is full."""
        if self._journal:
            self._journal.close()
        self._journal = None
        self.journal_path.unlink(missing_ok=True)

    def _earlier_rows(self) -> dict[str, str]:
        """The submission that an earlier run left; empty unless it has a row for each of these slices."""
        try:
            rles = dict(read_submission(self.path))
        except InputError:
            return {}
        return rles if list(rles) == list(self.rles) else {}

    def _journal_failed(self, error: OSError) -> None:
        remedy = "goes on without; a run that is killed would start from the beginning"
        self.faults.note(self.journal_path.name, f"cannot be written ({_reason(error)})", remedy)


def read_journal(path: Path, key: str) -> list[tuple[str, str]] | None:
    """Reads what a run finished before it was killed.

    Args:
        path: the journal.
        key: what its first line must say.

    Returns:
        (slice id, run-length encoding) of each whole line; None where there is no journal of that key.
    """
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    whole = [line[9:] for line in lines if line[:9] == _checksum(line[9:])]
    if not whole or json.loads(whole[0]) != key:
        return None
    return [tuple(json.loads(line)) for line in whole[1:]]


def _reason(error: OSError) -> str:
    return f"[Errno {error.errno}] {error.strerror}"


def _line(content: str | list[str]) -> bytes:
    """A line with its checksum; it begins a new one in case the last was cut short."""
    encoded = json.dumps(content).encode()
    return b"\n" + _checksum(encoded) + encoded + b"\n"


def _checksum(encoded: bytes) -> bytes:
    return b"%08x " % zlib.crc32(encoded)
