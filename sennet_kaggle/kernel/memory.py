"""What memory the machine has, and a run that fits into it."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ..config import Inference
from ..inference.axes import scratch_folder
from ..inference.predictor import Predictor
from .faults import Faults

# Where a container's memory limit stands, by version of the system's control groups.
_LIMIT_PATHS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class Memory(NamedTuple):
    """Bytes of each kind."""

    ram: int
    """Beside the memory maps on scratch disk, which the system drops when it needs the room."""
    gpu: int
    scratch: int

    def __str__(self) -> str:
        return ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in self._asdict().items())

    def lacking(self, machine: "Memory") -> list[str]:
        """The kinds of which a machine has too little."""
        return [name for name, size in self._asdict().items() if size > getattr(machine, name)]


def fit_inference(inference: Inference, needed: Memory, machine: Memory, faults: Faults) -> Inference:
    """The settings themselves, or what needs less where the machine has too little, which is a fault.

    Raises:
        InputError: too little, and the run is strict.
    """
    for kind in needed.lacking(machine):
        problem = f"{kind} needs {getattr(needed, kind) / 1e9:.1f} GB, has {getattr(machine, kind) / 1e9:.1f} GB"
        if kind == "scratch":
            faults.note("memory", f"{problem}: choose axes z or a scratch_dir with room", "axes z instead")
            inference = replace(inference, axes="z")
        else:
            faults.note("memory", f"{problem}: choose a smaller batch_size", "one input at a time, axes z")
            inference = replace(inference, axes="z", batch_size=1, sw_batch_size=1)
    return inference


def machine_memory(predictors: Sequence[Predictor], inference: Inference, processes: int = 1) -> Memory:
    """What the machine has for this process, what it holds already included.

    Args:
        predictors: on their devices.
        inference: names the scratch folder.
        processes: that share memory and scratch disk, each with a GPU of its own.
    """
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    ram = int(fields["MemAvailable"].split()[0]) * 1024 // processes + peak_ram()
    for path in _LIMIT_PATHS:  # a container may have less than its machine
        if path.is_file() and (limit := path.read_text().strip()).isdigit():
            ram = min(ram, int(limit) // processes)
    devices = {predictor.device for predictor in predictors if predictor.device.type == "cuda"}
    gpu = min((torch.cuda.mem_get_info(d)[0] + torch.cuda.memory_reserved(d) for d in devices), default=0)
    free = shutil.disk_usage(scratch_folder(inference.scratch_dir)).free
    return Memory(ram, gpu, free // processes)


def peak_ram() -> int:
    """The most memory that this process has held, bytes, memory maps included."""
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
