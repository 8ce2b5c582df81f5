"""What a person is told: the exception for input that they can mend, and warnings about what may not be meant."""

import logging
from collections.abc import Callable


class InputError(ValueError):
    """Bad input: a missing folder, a corrupt file, an unknown name, a value out of range.

    Its message is one line that says what was expected, what was found and what to do. The command
    line prints that line and exits with status 2; any other exception is a bug and keeps its traceback.
    """


def one_line(error: Exception) -> str:
    """What another library's exception says, short and on one line, as part of an InputError's message."""
    return " ".join(str(error).split())[:200]


def warn(message: str) -> None:
    """Says on one line that input was read but may not be what was meant; the work goes on."""
    logging.getLogger(__package__).warning("warning: %s", message)


def show_messages(write: Callable[[str], object]) -> None:
    """Lets the package's messages and warnings through, each text once.

    Args:
        write: called with each text.
    """
    said: set[str] = set()

    class Once(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = self.format(record)
            if text not in said:
                said.add(text)
                write(text)

    messages = logging.getLogger(__package__)
    messages.handlers = [Once()]
    messages.setLevel(logging.INFO)
