"""A few slices before the start: what a pass costs in time and memory, and whether the machine has what a run needs."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from .axes import BLOCK_BYTES, BYTES_PER_VOXEL, scaled_length, scratch_folder
from .batching import LARGEST_BATCH
from .config import Inference
from .predict import ensemble_score
from .predictor import Predictor
from .steady import SteadyVolume
from .windows import plan_windows

# Beside what the trial took: the allocator's ups and downs, further views, pictures of the result.
_SPARE_RAM, _SPARE_SHARE = 512 * 2**20, 1.5
_RAM_PER_ROW = 48 * 2**10
_GPU_SHARE = 1.3


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


@dataclass(frozen=True)
class Trial:
    """What a few slices from the middle of a kidney cost."""

    seconds_per_pixel: tuple[float, ...]
    """Of each model, for what it is shown (see `shown_pixels`)."""
    ram: int
    """The most that the process held, bytes."""
    ram_growth: int
    """How much of it came with the trial."""
    gpu: int

    def seconds_per_pass(
        self, volume: SteadyVolume, predictors: Sequence[Predictor], inference: Inference
    ) -> list[float]:
        """Seconds for a slice of a volume, once through each model."""
        size = scaled_shape(volume, inference)[1:]
        pairs = zip(self.seconds_per_pixel, predictors, strict=True)
        return [seconds * shown_pixels(predictor, inference, *size) for seconds, predictor in pairs]


def run_trial(volume: SteadyVolume, predictors: Sequence[Predictor], inference: Inference) -> Trial:
    """Runs a batch of slices per lane, from the middle of a volume, through each model, one view along z.

    Args:
        volume: the one with the largest slices.
        predictors: the members of the ensemble.
        inference: how they are to be run.
    """
    before, plain = peak_ram(), replace(inference, tta="none", axes="z")
    costs = []
    for predictor in predictors:
        is_gpu = predictor.device.type == "cuda"
        whole_batch = plain.batch_size or (LARGEST_BATCH if is_gpu else 1)
        batch = whole_batch if predictor.preprocessing.region == "whole" else 1
        count = min(len(volume), batch * predictor.lanes)
        first = (len(volume) - count) // 2
        score = ensemble_score(volume, [predictor], plain)
        for _ in range(2 if is_gpu else 1):  # a GPU is slow at its first batch
            started = time.monotonic()
            for map_ in score(volume[z] for z in range(first, first + count)):
                map_.cpu()  # which waits for the GPU
            seconds = time.monotonic() - started
        costs.append(seconds / count / shown_pixels(predictor, plain, *scaled_shape(volume, plain)[1:]))
    gpu = max(torch.cuda.max_memory_reserved(p.device) if p.device.type == "cuda" else 0 for p in predictors)
    return Trial(tuple(costs), peak_ram(), peak_ram() - before, gpu)


def bound(trial: Trial, volumes: Sequence[SteadyVolume], inference: Inference) -> Memory:
    """The most that a run may come to need."""
    rows = sum(map(len, volumes)) * _RAM_PER_ROW
    ram = trial.ram + _SPARE_RAM + int(_SPARE_SHARE * trial.ram_growth) + rows
    scratch = 0
    if inference.axes == "zyx":
        shapes = [scaled_shape(volume, inference) for volume in volumes]
        plane = max(depth * max(size) for depth, *size in shapes)
        largest = max(height * width for _, height, width in shapes)
        block = max(BLOCK_BYTES, BYTES_PER_VOXEL * max(plane, largest))
        ram += 4 * block + int(trial.ram_growth * plane / largest)
        scratch = BYTES_PER_VOXEL * max(depth * height * width for depth, height, width in shapes)
    return Memory(ram, int(_GPU_SHARE * trial.gpu), scratch)


def machine_memory(predictors: Sequence[Predictor], inference: Inference) -> Memory:
    """What the machine has for this process, what it holds already included."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    ram = int(fields["MemAvailable"].split()[0]) * 1024 + peak_ram()
    limit_path = Path("/sys/fs/cgroup/memory.max")  # a container may have less than its machine
    if limit_path.is_file() and (limit := limit_path.read_text().strip()).isdigit():
        ram = min(ram, int(limit))
    devices = {predictor.device for predictor in predictors if predictor.device.type == "cuda"}
    gpu = min((torch.cuda.mem_get_info(d)[0] + torch.cuda.memory_reserved(d) for d in devices), default=0)
    return Memory(ram, gpu, shutil.disk_usage(scratch_folder(inference.scratch_dir)).free)


def peak_ram() -> int:
    """The most memory that this process has held, bytes, memory maps included."""
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def axes_factor(volume: SteadyVolume, predictors: Sequence[Predictor], inference: Inference) -> float:
    """What a pass along all three axes costs, in passes along z."""
    shape = scaled_shape(volume, inference)
    along = [
        sum(shape[axis] * shown_pixels(p, inference, *(shape[:axis] + shape[axis + 1 :])) for p in predictors)
        for axis in range(3)
    ]
    return sum(along) / along[0]


def shown_pixels(predictor: Predictor, inference: Inference, height: int, width: int) -> int:
    """Pixels that a model is shown of a plane, those where windows overlap as often as they do."""
    roi_size = predictor.preprocessing.roi_size
    if predictor.preprocessing.region == "whole":
        return roi_size**2
    windows = plan_windows(height, width, roi_size, inference.overlap)
    return sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in windows)


def scaled_shape(volume: SteadyVolume, inference: Inference) -> tuple[int, int, int]:
    """(D, H, W) of a volume as the models see it."""
    scale = inference.scale_of(volume.name)
    depth, height, width = (scaled_length(length, scale) for length in (len(volume), *volume.size))
    return (depth if inference.axes == "zyx" else len(volume)), height, width
