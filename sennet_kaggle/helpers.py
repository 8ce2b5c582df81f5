"""Processes that do a share of the work on the machine's other GPUs; what they leave undone is done here."""

import math
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from .faults import Faults


def find_devices(device: str) -> list[str]:
    """The devices that a device setting leaves to share the work out on: every GPU for "auto", else that one."""
    gpus = torch.cuda.device_count() if device == "auto" else 0
    return [f"cuda:{index}" for index in range(gpus)] if gpus > 1 else [device]


def start_helpers(work: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> list[BaseProcess]:
    """Calls a function once with each of the arguments, every time in a new process."""
    context = torch.multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    processes = [context.Process(target=work, args=each, daemon=True) for each in arguments]
    for process in processes:
        process.start()
    return processes


def wait_for_helpers(processes: Sequence[BaseProcess], deadline: float, faults: Faults) -> None:
    """Waits until they have ended, well or not, or until a time of `time.monotonic()`; then they are ended."""
    for number, process in enumerate(processes, 1):
        process.join(max(0.0, deadline - time.monotonic()) if math.isfinite(deadline) else None)
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode != 0:
            problem = f"ended with exit code {process.exitcode}"
            faults.note(f"helper {number}", problem, "what it has not finished is done by the first process")
