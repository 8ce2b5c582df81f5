"""What a person is told: the exception for input that they can mend, and warnings about what may not be meant."""

import errno
import logging
from collections.abc import Callable

# A full disk, a full quota, and the largest file that the system allows.
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class InputError(ValueError):
    """Bad input: a missing folder, a corrupt file, an unknown name, a value out of range.

    Its message is one line that says what was expected, what was found and what to do. The command
    line prints that line and exits with status 2; any other exception is a bug and keeps its traceback.
    """


class OutputError(InputError, OSError):
    """An output that the system does not let us write; `errno` and `strerror` are the system's.

    Args:
        message: the one line.
        error: of the system.
    """

    def __init__(self, message: str, error: OSError):
        OSError.__init__(self, error.errno, error.strerror)
        self.message = message

    def __str__(self) -> str:
        return self.message


def one_line(error: Exception) -> str:
    """What another library's exception says, short and on one line, as part of an InputError's message."""
    return " ".join(str(error).split())[:200]


def warn(message: str, once_for: object = None) -> None:
    """Says on one line that input was read but may not be what was meant; the work goes on.

    Args:
        message: the line.
        once_for: where many messages would say the same, such as one for each file of a folder: what they have in
            common. Of those from one place in the code only the first is shown.
    """
    logging.getLogger(__package__).warning("warning: %s", message, extra={"once_for": once_for}, stacklevel=2)


def say(message: str) -> None:
    """Says on one line what the work depends on; not to those who want it quiet."""
    logging.getLogger(__package__).info(message)


def tell(message: str) -> None:
    """Says on one line what only those who ask for details want to know (see `show_messages`)."""
    logging.getLogger(__package__).debug(message)


def is_quiet() -> bool:
    """Whether only warnings and errors are wanted."""
    return logging.getLogger(__package__).level >= logging.WARNING


def show_messages(write: Callable[[str], object], level: int = logging.INFO) -> None:
    """Lets the package's messages and warnings through, each text once (see also `warn`).

    Args:
        write: called with each text.
        level: of `logging`. WARNING: neither messages nor progress bars. DEBUG: details as well.
    """
    said: set[object] = set()

    class Once(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text, about = self.format(record), getattr(record, "once_for", None)
            key = text if about is None else (record.pathname, record.lineno, about)
            if key not in said:
                said.add(key)
                write(text)

    messages = logging.getLogger(__package__)
    messages.handlers = [Once()]
    messages.setLevel(level)
