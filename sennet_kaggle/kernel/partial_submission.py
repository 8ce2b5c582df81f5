"""The submission while it grows: a row for every test slice from the first second, finished ones safe from a kill."""

import re
import time
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from ..submission.rle import EMPTY_RLE
from ..submission.submission import read_submission, write_submission
from .faults import Faults
from .journal import Entry, Journal, read_journal

# How old what stands in submission.csv may be while rows are being finished.
_SECONDS_BETWEEN_SAVES = 60.0


class PartialSubmission:
    """The rows of a submission, empty masks at first.

    Rows also go to a journal beside the submission, and with them what was survived and left out to make them. From
    it a run that was killed goes on, and from those of the other processes the first one takes their rows.

    Args:
        path: submission.csv; written at once, whole, with an empty mask for every slice, unless one with these slices
            is there, which stays until it is known whether this run goes on from it (see `resume`).
        slice_ids: of every test slice, in order.
        faults: gets a note of a full disk; those noted are told to the journal.
        dropped: what there was no time for, in words, a list that grows; told likewise.
        rank: the number of this process; only the first, 0, writes the submission.

    Raises:
        InputError: it cannot be written: without a place for the submission there is nothing to run for.
    """

    def __init__(
        self, path: Path, slice_ids: Iterable[str], faults: Faults, dropped: list[str] | None = None, rank: int = 0
    ):
        self.path, self.faults, self.rank = path, faults, rank
        self.dropped = [] if dropped is None else dropped
        self.rles = dict.fromkeys(slice_ids, EMPTY_RLE)
        self.finished: set[str] = set()
        """Slices that a run which goes on need not try again."""
        self.done: set[str] = set()
        """Slices that have got a row, of this run or finished by an earlier one."""
        self.key = ""
        self._journal: Journal | None = None
        self._told = (0, 0)
        """How many faults and omissions the journal has."""
        self._saved = time.monotonic()
        self._is_earlier = rank > 0 or bool(self._earlier_rows())
        if not self._is_earlier:
            write_submission(path, self.rles.items())

    @property
    def journal_path(self) -> Path:
        return self.journal_of(self.path, self.rank)

    @property
    def has_journal(self) -> bool:
        """Whether rows outlive this process."""
        return self._journal is not None

    @staticmethod
    def journal_of(path: Path, rank: int = 0) -> Path:
        """Where the journal of a submission lies, one per process."""
        return path.with_name(f"{path.name}.{rank}.journal" if rank else f"{path.name}.journal")

    def resume(self, key: str) -> None:
        """Takes over the rows that processes of an earlier run with the same key finished, and opens the journal.

        Args:
            key: all that the rows depend on.
        """
        self.key = key
        earlier = [entries for path in self._journals() if (entries := read_journal(path, key)) is not None]
        if earlier:
            # What is not finished is tried again, and stands there until then.
            self.rles |= self._earlier_rows()
            for entries in earlier:
                self._take_over(entries)
            self.done = set(self.finished)
        if self.rank == 0:  # what went wrong before this would go wrong again, and the rest is in a journal
            self._told = (len(self.faults.noted), len(self.dropped))
        try:
            self._journal = Journal(self.journal_path, key)
        except OSError as error:
            self._journal_failed(error)
        self.tell()
        if self.rank == 0 and self._is_earlier:
            self.save()

    def add(self, slice_id: str, rle: str, finished: bool = True) -> None:
        """Sets a slice's row.

        Args:
            slice_id: of the slice.
            rle: its mask.
            finished: whether a run that goes on need not try it again; False where a fault touched it.
        """
        self._set(slice_id, rle, finished)
        self.tell(["row", slice_id, rle, finished])
        if self.rank == 0 and time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
            self.save()

    def tell(self, *entries: Entry) -> None:
        """Writes to the journal what was survived and dropped since, and then these entries."""
        if not self._journal:
            return
        faults, dropped = self.faults.noted[self._told[0] :], self.dropped[self._told[1] :]
        self._told = (len(self.faults.noted), len(self.dropped))
        news = [*(["fault", *fault] for fault in faults), *(["dropped", words] for words in dropped)]
        try:
            for entry in [*news, *entries]:
                self._journal.write(entry)
        except OSError as error:
            self._journal_failed(error)

    def take_over(self, rank: int) -> int:
        """Adds what another process with the same key has done.

        Returns:
            How many rows.
        """
        before = len(self.done)
        self._take_over(read_journal(self.journal_of(self.path, rank), self.key) or [])
        return len(self.done) - before

    def save(self) -> None:
        """Writes the submission as it is now; where the disk is full the journal makes room for it."""
        self.tell()
        self._saved = time.monotonic()
        for remedy in ("the journal is removed to make room", "the last one that was written stays, whole but older"):
            try:
                write_submission(self.path, self.rles.items())
                return
            except OSError as error:
                self.faults.note(self.path.name, f"cannot be written ({_reason(error)})", remedy)
                self.drop_journal()

    def drop_journal(self) -> None:
        """Removes this process's journal: the disk is full."""
        if self._journal:
            self._journal.close()
        self._journal = None
        self.journal_path.unlink(missing_ok=True)

    def drop_journals(self) -> None:
        """Removes the journals of all processes, also of earlier runs with more of them: the run has ended."""
        self.drop_journal()
        for path in self._journals():
            path.unlink(missing_ok=True)

    def _set(self, slice_id: str, rle: str, finished: bool) -> None:
        self.rles[slice_id] = rle
        self.done.add(slice_id)
        if finished:
            self.finished.add(slice_id)

    def _take_over(self, entries: Iterable[Entry]) -> None:
        for kind, *fields in entries:
            if kind == "row":
                slice_id, rle, finished = fields
                if slice_id in self.rles and slice_id not in self.finished:
                    self._set(slice_id, rle, finished)
            elif self.rank == 0 and kind == "fault":
                self.faults.note(*fields)
            elif self.rank == 0 and kind == "dropped" and fields[0] not in self.dropped:
                self.dropped.append(fields[0])

    def _journals(self) -> list[Path]:
        """Those of all processes, this one's last, for what it says is the latest."""
        name = re.compile(re.escape(self.path.name) + r"(\.\d+)?\.journal")
        paths = sorted(path for path in self.path.parent.iterdir() if name.fullmatch(path.name))
        return sorted(paths, key=lambda path: path == self.journal_path)

    def _earlier_rows(self) -> dict[str, str]:
        """The submission that an earlier run left; empty unless it has a row for each of these slices."""
        try:
            rles = dict(read_submission(self.path))
        except InputError:
            return {}
        return rles if list(rles) == list(self.rles) else {}

    def _journal_failed(self, error: OSError) -> None:
        self._journal = None
        if self.rank:
            raise error  # the first process would never learn of the rows
        remedy = "goes on without; a run that is killed would start from the beginning"
        self.faults.note(self.journal_path.name, f"cannot be written ({_reason(error)})", remedy)


def _reason(error: OSError) -> str:
    return f"[Errno {error.errno}] {error.strerror}"
