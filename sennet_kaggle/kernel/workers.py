"""Processes that do a part of the work on the machine's other GPUs; what they leave undone is done here."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from ..errors import InputError
from .faults import Faults, describe

_START_METHOD: Final = "spawn"  # CUDA does not survive a fork
# A process that has got no slice further for so long does not answer any more.
_PATIENCE_SECONDS = 900.0


def find_devices(device: str) -> list[str]:
    """The devices that a device setting leaves to distribute the work over: every GPU for "auto", else that one."""
    gpus = torch.cuda.device_count() if device == "auto" else 0
    return [f"cuda:{index}" for index in range(gpus)] if gpus > 1 else [device]


class Worker:
    """A process that does a part of the work.

    Args:
        work: called there with a function and the arguments; it calls the function whenever it has got further.
        arguments: of the work.
    """

    def __init__(self, work: Callable[..., None], arguments: Sequence[Any]):
        context = multiprocessing.get_context(_START_METHOD)
        self._progress = context.Value("d", time.monotonic(), lock=False)
        self._ending, ending = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(work, arguments, self._progress, ending), daemon=True)
        self._process.start()
        ending.close()

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def wait(self, seconds: float) -> None:
        """Waits until it has ended, or so long."""
        self._process.join(seconds)

    def kill(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.join()

    @property
    def last_progress(self) -> float:
        """When it got further the last time, in `time.monotonic()`."""
        return self._progress.value

    def what_went_wrong(self) -> str | None:
        """Why it has ended; None where all went well."""
        if self._process.exitcode == 0:
            return None
        try:
            return self._ending.recv() if self._ending.poll() else f"ended with exit code {self._process.exitcode}"
        except EOFError:
            return f"ended with exit code {self._process.exitcode}"


def _run(work: Callable[..., None], arguments: Sequence[Any], progress: Any, ending: Any) -> None:
    """What the process does."""

    def go_on() -> None:
        progress.value = time.monotonic()
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            sys.exit("the first process has ended")  # its next run goes on from this one's journal

    try:
        work(go_on, *arguments)
    except Exception as error:
        ending.send(describe(error))
        if isinstance(error, InputError):  # its message says all
            sys.exit(1)
        raise


def start_workers(work: Callable[..., None], arguments: Sequence[Sequence[Any]], faults: Faults) -> list[Worker]:
    """Calls a function once with each of the arguments, every time in a new process, as far as these can be started."""
    workers: list[Worker] = []
    try:
        for each in arguments:
            workers.append(Worker(work, each))
    except Exception as error:
        faults.note("the other GPUs", error, f"{len(workers)} of {len(arguments)} workers work")
    return workers


def wait_for_workers(
    workers: Sequence[Worker], deadline: float, patience: float = _PATIENCE_SECONDS
) -> list[str | None]:
    """Waits until they have ended, well or not; those that are late or hang are ended.

    Args:
        workers: the processes.
        deadline: in `time.monotonic()`.
        patience: seconds that one may go without getting further.

    Returns:
        What went wrong with each, None where nothing did.
    """
    problems = []
    for worker in workers:
        problem = None
        while worker.is_running() and problem is None:
            now = time.monotonic()
            if now >= deadline:
                problem = "was not ready in time"
            elif now - worker.last_progress > patience:
                problem = f"has not got further for {patience:g} s"
            else:
                worker.wait(min(1.0, deadline - now))
        if problem:
            worker.kill()
        problems.append(problem or worker.what_went_wrong())
    return problems
