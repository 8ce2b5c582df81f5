"""The one exception for input that a person can mend."""


class InputError(ValueError):
    """Bad input: a missing folder, a corrupt file, an unknown name, a value out of range.

    Its message is one line that says what was expected, what was found and what to do. The command
    line prints that line and exits with status 2; any other exception is a bug and keeps its traceback.
    """
