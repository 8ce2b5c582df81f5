"""How a command ends and what its console can show: signals, closed pipes, other locales, packages that are missing."""

import codecs
import contextlib
import errno
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import FULL_DISK, InputError, show_messages

STOPPED, BAD_INPUT, NOBODY_READS = 130, 2, 141
# What a scheduler, `kill` and a closed terminal send.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))  # one on Windows
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}
# What our texts and the help have beside ASCII, as far as it can be written otherwise.
_PLAIN = {"…": "...", "•": "*", "±": "+-", "×": "x", "→": "->", "–": "-", "µ": "u", "³": "^3", "²": "^2"}
# By the name that is imported: the package's, and the file that lists it.
_PACKAGES = {
    **{
        name: (name.replace("_", "-"), "requirements.txt")
        for name in "accelerate fast_simplification filelock matplotlib numpy pandas plotly safetensors scipy "
        "segment_anything tifffile tensorboard timm torch torchvision tqdm transformers tyro".split()
    },
    "cv2": ("opencv-python", "requirements.txt"),
    "skimage": ("scikit-image", "requirements.txt"),
    "openvino": ("openvino", "requirements-openvino.txt"),
    **{name: (name, "requirements-dev.txt") for name in ("ipykernel", "nbclient", "nbformat")},
    "networkx": ("networkx", "requirements-dev.txt"),  # the extra "vessels"
    # The extra "scans".
    **{name: (name, "requirements-dev.txt") for name in "dask distributed nibabel zarr".split()},
}


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal; whatever Ctrl-C would have removed is removed."""

    def __init__(self, number: int):
        super().__init__()
        self.status = 128 + number


def run_command(command: Callable[[], object], level: int = logging.INFO) -> int:
    """Runs a command to its end, whichever it is.

    Args:
        command: does the work.
        level: of `logging`, which messages are shown; with DEBUG the traceback of an error is, too.

    Returns:
        The exit status: 0; 2 after one line about bad input, a missing package or a disk that is full; 130 after
        Ctrl-C, 143 after SIGTERM; 141 where nobody reads the output any more.
    """
    _open_streams()
    _show_every_text()
    show_messages(show, level)
    try:
        with _stopped_by_signals():
            try:
                command()
            finally:
                sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        status = _explain(error)
        if status is None:
            raise
        if status == BAD_INPUT and level <= logging.DEBUG:
            show("".join(traceback.format_exception(error)).rstrip())
        return status
    return 0


def missing_package(error: ModuleNotFoundError) -> str | None:
    """The line about a package of ours that is not installed; None where another module is missing, which is a bug."""
    package, listed_in = _PACKAGES.get((error.name or "").split(".")[0], (None, None))
    if package is None:
        return None
    return f"this needs the package {package}, which is not installed: pip install {package}, or -r {listed_in}"


def _explain(error: BaseException) -> int | None:
    """Says why a command ended, and gives its exit status; None for what is a bug."""
    stopped = _stop_among(error)
    if stopped:
        show("stopped")
        return stopped.status if isinstance(stopped, Stopped) else STOPPED
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        _drop_output()
        return NOBODY_READS
    reason = _reason(error)
    if reason is None:
        return None
    show(f"error: {reason}")
    return BAD_INPUT


def _reason(error: BaseException) -> str | None:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return missing_package(error)
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return f"a file's name is not UTF-8 text, {ascii(error.object[-100:])}: rename it"
    if isinstance(error, OSError) and error.errno in _CLOSED and error.filename:
        return f"cannot open {error.filename} ({error.strerror}): expected a file or folder that this user may use"
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        _drop_output()  # it may be the disk of the output itself
        where = error.filename or "the output"
        return f"cannot write {where}: the disk has no room ({error.strerror}): make some, or use another"
    return None


def _stop_among(error: BaseException | None) -> KeyboardInterrupt | None:
    """The signal that an exception is about, or that came while or before it was raised."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Lets a signal that would end the process at once raise `Stopped` instead; only where nobody else handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, frame: object) -> None:
        for each in ours:
            signal.signal(each, signal.SIG_IGN)  # a second one does not disturb the tidying up
        sys.unraisablehook = lambda _: None  # what was half made, such as a progress bar, has nothing to say
        raise Stopped(number)

    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        sys.unraisablehook = sys.__unraisablehook__
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _open_streams() -> None:
    """Opens those of the three streams that the caller has closed; else the next file would take a stream's number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _show_every_text() -> None:
    """Lets the console show what its encoding lacks in ASCII, which else would be an exception."""
    codecs.register_error("plain", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and error.object[error.start] in _PLAIN:
        return _PLAIN[error.object[error.start]], error.start + 1
    return codecs.backslashreplace_errors(error)


def show(text: str) -> None:
    """Writes to standard error, clear of the progress bars there, if there can be any."""
    bars = sys.modules.get("sennet_kaggle.progress")
    with contextlib.suppress(OSError):  # nobody reads it
        bars.Bar.write(text, file=sys.stderr) if bars else print(text, file=sys.stderr)


def _nobody_reads() -> bool:
    """Whether the reader of the output or of the messages has gone; where that cannot be asked, it is taken so."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _drop_output() -> None:
    """Sends the rest of the output nowhere, so that Python's own flush at the end does not fail again."""
    with contextlib.suppress(OSError, ValueError):  # a notebook's or a test's stream has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
