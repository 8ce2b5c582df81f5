"""The one exception for input that a person can mend."""


class InputError(ValueError):
    """Bad input: a missing folder, a corrupt file, an unknown name, a value out of range.

    Its message is one line that says what was expected, what was found and what to do. The command
    line prints that line and exits with status 2; any other exception is a bug and keeps its traceback.
    """


def one_line(error: Exception) -> str:
    """What another library's exception says, short and on one line, as part of an InputError's message."""
    return " ".join(str(error).split())[:200]
