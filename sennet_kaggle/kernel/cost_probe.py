"""A few slices before the start: what a pass costs in time and memory, and so what a run comes to need."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np
import torch

from ..config import Inference
from ..data.padding import fill_padding
from ..data.resizing import resize_slice, scaled_length
from ..errors import InputError
from ..inference.axes import BLOCK_BYTES, BYTES_PER_VOXEL
from ..inference.batching import LARGEST_BATCH
from ..inference.ensemble import measure_grey_values, scales_of
from ..inference.patches import Request
from ..inference.predictor import Predictor
from ..inference.windows import plan_windows
from .budget import count_views
from .fault_tolerant_volume import FaultTolerantVolume
from .memory import Memory, peak_ram

# Slices of each kidney that are looked at.
_SAMPLED = 8
# Seconds after which a time is taken to be that of a model, and not of its start.
_LONG_ENOUGH = 0.5
# Beside what the probe took: the allocator's ups and downs, further views, pictures of the result.
_SPARE_RAM, _SPARE_SHARE = 512 * 2**20, 1.5
_RAM_PER_ROW = 48 * 2**10
_GPU_SHARE = 1.3


class VolumeCost(NamedTuple):
    """What a few slices of a kidney say about all of them."""

    start: float
    """Seconds before the first slice, for the range of grey values and the background."""
    read: float
    """Seconds to read a slice."""
    prepare: float
    """Seconds to make of it what the models are to see."""
    occupied: tuple[float, ...]
    """Share of its windows that each model is shown, the rest being background."""


class ModelCost(NamedTuple):
    """What it costs to show something to a model."""

    seconds_per_pixel: float
    """Of one view."""
    at_once: int
    """Windows, or whole slices, that are shown at once, a batch in every thread; a last batch is filled up."""


@dataclass(frozen=True)
class Costs:
    """What a few slices cost."""

    models: tuple[ModelCost, ...]
    """Of each model."""
    volumes: Mapping[str, VolumeCost]
    """Of the kidneys, by name."""
    ram: int
    """The most that the process held, bytes."""
    ram_growth: int
    """How much of it came with the probe."""
    gpu: int

    def seconds(
        self, volume: FaultTolerantVolume, predictors: Sequence[Predictor], inference: Inference, slices: int
    ) -> float:
        """Expected seconds of a run, after its start.

        Args:
            volume: the kidney.
            predictors: the members that are shown it: the first of those that were tried.
            inference: how they are run.
            slices: how many along z; along three axes it takes as long for one as for all.
        """
        cost_of_volume = self._cost_of(volume)
        depth, height, width = scaled_shape(volume, inference)
        planes, reads = [(slices, height, width)], slices
        if inference.axes == "zyx":
            planes, reads = [(depth, height, width), (height, depth, width), (width, depth, height)], len(volume)
        showing = 0.0
        for predictor, cost, occupied in zip(predictors, self.models, cost_of_volume.occupied, strict=False):
            views = 1 if hasattr(predictor.model, "segment") else count_views(inference)
            for (count, *size), scale in product(planes, scales_of(predictors, inference)):
                windows, pixels = shown_windows(predictor, inference, *(scaled_length(each, scale) for each in size))
                rounds = math.ceil(round(count * windows * occupied / cost.at_once, 6))
                showing += views * rounds * cost.at_once * pixels * cost.seconds_per_pixel
        reading = reads * (cost_of_volume.read + len(planes) * cost_of_volume.prepare)
        # A GPU computes while the CPU reads; the CPU's own threads share their cores with the reading.
        beside = predictors[0].device.type != "cpu"
        return max(reading, showing) if beside else reading + showing

    def seconds_to_start(self, volume: FaultTolerantVolume) -> float:
        """Expected seconds before a run's first slice."""
        return self._cost_of(volume).start

    def slices_at_once(self, volume: FaultTolerantVolume, predictors: Sequence[Predictor], inference: Inference) -> int:
        """How many slices become ready together along z, since their windows go through a model at once."""
        size = scaled_shape(volume, inference)[1:]
        together = [1]
        for predictor, cost, occupied in zip(predictors, self.models, self._cost_of(volume).occupied, strict=False):
            windows, _ = shown_windows(predictor, inference, *size)
            together.append(math.ceil(cost.at_once / max(1.0, windows * occupied)))
        return max(together)

    def _cost_of(self, volume: FaultTolerantVolume) -> VolumeCost:
        return self.volumes.get(volume.name, VolumeCost(0.0, 0.0, 0.0, (1.0,) * len(self.models)))


def unknown_costs(predictors: Sequence[Predictor], inference: Inference) -> Costs:
    """What is known where nothing could be measured: that a pass costs something."""
    costs = []
    for predictor in predictors:
        whole = predictor.preprocessing.region == "whole"
        wanted = inference.batch_size if whole else inference.sw_batch_size
        batch = wanted or (1 if predictor.device.type == "cpu" else LARGEST_BATCH)
        costs.append(ModelCost(1e-12, batch * predictor.threads))
    return Costs(tuple(costs), {}, peak_ram(), 0, 0)


def probe_costs(volumes: Sequence[FaultTolerantVolume], predictors: Sequence[Predictor], inference: Inference) -> Costs:
    """Reads a few slices of each volume, and shows each model as many windows of the largest as it takes at once.

    Args:
        volumes: the kidneys; one of which no slice can be read is left out.
        predictors: the members of the ensemble.
        inference: how they are to be run; one view along z is tried.
    """
    before, plain = peak_ram(), replace(inference, tta="none", axes="z")
    volume_costs = {}
    examples: list[list[Request | np.ndarray]] = [[] for _ in predictors]
    for volume in sorted(volumes, key=lambda volume: math.prod(volume.size)):
        try:
            volume_costs[volume.name], examples = _look_at(volume, predictors, plain)
        except InputError:  # which the run will come to as well, and survive slice by slice
            continue
    costs = tuple(_try_model(predictor, seen, plain) for predictor, seen in zip(predictors, examples, strict=True))
    gpu = max(torch.cuda.max_memory_reserved(p.device) if p.device.type == "cuda" else 0 for p in predictors)
    return Costs(costs, volume_costs, peak_ram(), peak_ram() - before, gpu)


def _look_at(
    volume: FaultTolerantVolume, predictors: Sequence[Predictor], inference: Inference
) -> tuple[VolumeCost, list[list[Request | np.ndarray]]]:
    """Reads slices spread over a volume; returns what they say, and what each model would be shown of them."""
    largest = max(scales_of(predictors, inference))
    size = tuple(scaled_length(length, largest) for length in scaled_shape(volume, inference)[1:])
    started = time.monotonic()
    intensities, background = measure_grey_values(volume, predictors, inference)
    start, read, prepare = time.monotonic() - started, 0.0, 0.0
    seen: list[list[Request | np.ndarray]] = [[] for _ in predictors]
    zs = np.linspace(0, len(volume) - 1, min(_SAMPLED, len(volume))).round().astype(int).tolist()
    for z in zs:
        started = time.monotonic()
        slice_ = volume[z]
        was_read = time.monotonic()
        slice_ = resize_slice(fill_padding(slice_), *size) if slice_.shape != size else slice_
        for requests, predictor, intensity in zip(seen, predictors, intensities, strict=True):
            requests += predictor.prepare([slice_], intensity, inference, background)
        read, prepare = read + was_read - started, prepare + time.monotonic() - was_read
    occupied = []
    for requests, predictor in zip(seen, predictors, strict=True):
        windows, _ = shown_windows(predictor, inference, *size)
        shown = sum(len(request.windows) if isinstance(request, Request) else 1 for request in requests)
        occupied.append(shown / (windows * len(zs)))
    return VolumeCost(start, read / len(zs), prepare / len(zs), tuple(occupied)), seen


def _try_model(predictor: Predictor, seen: Sequence[Request | np.ndarray], inference: Inference) -> ModelCost:
    """Shows a model as much as it takes at once, no more and no less."""
    if hasattr(predictor.model, "segment"):
        shown, at_once, pixels = seen[len(seen) // 2 :][:1], 1, predictor.preprocessing.roi_size**2
    else:
        requests = [request for request in seen if isinstance(request, Request) and request.windows]
        if not requests:
            return ModelCost(1e-12, 1)
        request = requests[len(requests) // 2]
        at_once = predictor.batch_size(request.tensors[0], inference) * predictor.threads
        pixels = math.prod(request.tensors[0].shape[1:])
        shown = _exactly(at_once, request)
    times: list[float] = []
    # The first time is slow, on a GPU by much.
    while len(times) < (1 if predictor.device.type == "cpu" else 2) or (sum(times) < _LONG_ENOUGH and len(times) < 5):
        started = time.monotonic()
        for map_ in predictor.run(shown, inference):
            map_.cpu()  # which waits for the GPU
        times.append(time.monotonic() - started)
    return ModelCost(min(times) / (at_once * pixels), at_once)


def _exactly(count: int, request: Request) -> list[Request]:
    """So many windows: those of a slice, again and again."""
    taken = []
    while count > 0:
        taken.append(request._replace(windows=request.windows[:count], tensors=request.tensors[:count]))
        count -= len(taken[-1].windows)
    return taken


def bound(costs: Costs, volumes: Sequence[FaultTolerantVolume], inference: Inference) -> Memory:
    """The most that a run may come to need."""
    rows = sum(map(len, volumes)) * _RAM_PER_ROW
    ram = costs.ram + _SPARE_RAM + int(_SPARE_SHARE * costs.ram_growth) + rows
    scratch = 0
    if inference.axes == "zyx":
        shapes = [scaled_shape(volume, inference) for volume in volumes]
        plane = max(depth * max(size) for depth, *size in shapes)
        largest = max(height * width for _, height, width in shapes)
        block = max(BLOCK_BYTES, BYTES_PER_VOXEL * max(plane, largest))
        ram += 4 * block + int(costs.ram_growth * plane / largest)
        scratch = BYTES_PER_VOXEL * max(depth * height * width for depth, height, width in shapes)
    return Memory(ram, int(_GPU_SHARE * costs.gpu), scratch)


def shown_windows(predictor: Predictor, inference: Inference, height: int, width: int) -> tuple[int, int]:
    """How many windows a plane is cut into for a model, or 1 where it is shown all of it, and the pixels of each."""
    roi_size = predictor.preprocessing.roi_size
    if predictor.preprocessing.region == "whole":
        return 1, roi_size**2
    windows = plan_windows(height, width, roi_size, inference.overlap)
    rows, columns = windows[0]
    return len(windows), (rows.stop - rows.start) * (columns.stop - columns.start)


def scaled_shape(volume: FaultTolerantVolume, inference: Inference) -> tuple[int, int, int]:
    """(D, H, W) of a volume as the models see it."""
    scale = inference.scale_of(volume.name)
    depth, height, width = (scaled_length(length, scale) for length in (len(volume), *volume.size))
    return (depth if inference.axes == "zyx" else len(volume)), height, width
