"""What goes wrong on the way: said as it happens and listed at the end, or, in a strict run, the end of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..errors import InputError, one_line
from ..progress import Bar

# How many faults of a kind are said one by one.
_SAID = 3


class Fault(NamedTuple):
    """One thing that went wrong and was survived."""

    where: str
    """A slice id, a file, a kidney."""
    problem: str
    remedy: str
    """What the run did instead, and so what was lost."""

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}; {self.remedy}"

    @property
    def kind(self) -> tuple[str, str]:
        """What it has in common with the same fault elsewhere."""
        return self.problem, self.remedy


class Faults:
    """Collects faults; the one place that decides whether a run survives them.

    Args:
        strict: stop at the first, which is what one wants locally.
        say: called with each as it happens.
    """

    def __init__(self, strict: bool, say: Callable[[str], None] = Bar.write):
        self.strict, self._say = strict, say
        self.noted: list[Fault] = []

    def note(self, where: str, problem: str | Exception, remedy: str) -> None:
        """Says a fault and goes on; the same one is said once.

        Raises:
            InputError: the run is strict; an exception that is no InputError comes out as it is, with its traceback.
        """
        if self.strict:
            raise problem if isinstance(problem, Exception) else InputError(f"{where}: {problem}")
        fault = Fault(where, problem if isinstance(problem, str) else describe(problem), remedy)
        if fault in self.noted:
            return
        self.noted.append(fault)
        alike = sum(each.kind == fault.kind for each in self.noted)
        if alike <= _SAID:
            self._say(f"FAULT {fault}" + (" (more of this kind are counted at the end)" if alike == _SAID else ""))

    @contextmanager
    def survived(self, where: str, remedy: str) -> Iterator[None]:
        """Notes whatever fails in the block, and goes on after it.

        Raises:
            InputError, or the error itself: the run is strict.
        """
        try:
            yield
        except Exception as error:
            self.note(where, error, remedy)

    def __str__(self) -> str:
        if not self.noted:
            return "no faults"
        kinds: dict[tuple[str, str], list[Fault]] = {}
        for fault in self.noted:
            kinds.setdefault(fault.kind, []).append(fault)
        lines = [f"  {_summary(faults)}" for faults in kinds.values()]
        return "\n".join([f"{len(self.noted)} FAULT(S) were survived:", *lines])


def _summary(faults: list[Fault]) -> str:
    """Faults of one kind on a line."""
    first, last = faults[0], faults[-1]
    if len(faults) <= _SAID:
        return "\n  ".join(map(str, faults))
    return f"{first.where} … {last.where} ({len(faults)} of them): {first.problem}; {first.remedy}"


def describe(error: Exception) -> str:
    """An exception on one line; our own need no name before their message."""
    if isinstance(error, InputError):
        return str(error)
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
