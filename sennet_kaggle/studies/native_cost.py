"""A checkpoint → what it costs: parameters, operations, time and memory of a slice at its own size, time of a step."""

import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..config import Inference, Training
from ..data.intensity import measure_intensity
from ..data.volume import open_volume
from ..errors import InputError, one_line
from ..files import file_digest, write_whole
from ..inference.loading import load_predictors
from ..training.losses import create_criterion
from ..training.training_model import create_initial_model

_ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """What a model costs on the CPU with one thread; CPU times, which other work lengthens less than the clock's."""

    parameters: int
    gflop: float
    """Operations of one view of a slice, multiplications and additions counted apart, in 10^9."""
    seconds: float
    """Of one view of a slice at its own size, from grey values to probability, by torch in float32."""
    openvino_seconds: float | None
    """The same by OpenVINO; None where that does not run the model."""
    openvino_problem: str
    """Why it does not; empty where it does."""
    peak_gib: float | None
    """Most memory that a process held that segmented slices by torch; None where the system does not say."""
    step_seconds: float
    """Of one optimizer step of the training."""
    size: tuple[int, int]
    """(H, W) of the slice."""


def measure_cost(checkpoint_path: Path, volume_path: Path, training: Training, kept_path: Path) -> Cost:
    """Measures a model in a process of its own, or reads what was measured of this checkpoint before.

    Args:
        checkpoint_path: of the model.
        volume_path: a kidney; its first slice with a label is segmented.
        training: the model's, for the time of a step.
        kept_path: a JSON file, which is written.
    """
    digest = file_digest(checkpoint_path).hex()
    kept = json.loads(kept_path.read_text()) if kept_path.is_file() else {}
    if kept.get("checkpoint") == digest:
        return Cost(**{**kept["cost"], "size": tuple(kept["cost"]["size"])})
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        cost = pool.submit(_measure, checkpoint_path, volume_path, training).result()
    write_whole(kept_path, json.dumps({"checkpoint": digest, "cost": asdict(cost)}, indent=1).encode())
    return cost


def _measure(checkpoint_path: Path, volume_path: Path, training: Training) -> Cost:
    torch.set_num_threads(1)
    volume = open_volume(volume_path)
    z = next(z for z in range(len(volume)) if volume.is_labelled(z))

    def segmenting(backend: Literal["torch", "openvino"]) -> Callable[[], np.ndarray]:
        inference = Inference(device="cpu", backend=backend)
        (predictor,) = load_predictors([checkpoint_path], inference)
        intensity = measure_intensity(volume, predictor.preprocessing)
        return lambda: predictor([volume[z]], intensity, inference)[0]

    (predictor,) = load_predictors([checkpoint_path], Inference(device="cpu"))
    segment = segmenting("torch")
    seconds, peak_gib = _cpu_seconds(segment), _peak_gib()
    with FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH):  # whose products it sees
        segment()
    openvino_seconds, problem = None, ""
    try:
        openvino_seconds = _cpu_seconds(segmenting("openvino"))
    except Exception as error:  # OpenVINO raises many kinds where it cannot convert a model
        problem = str(error) if isinstance(error, InputError) else f"OpenVINO cannot run it: {one_line(error)}"
    return Cost(
        parameters=sum(parameter.numel() for parameter in predictor.model.parameters()),
        gflop=flops.get_total_flops() / 1e9,
        seconds=seconds,
        openvino_seconds=openvino_seconds,
        openvino_problem=problem,
        peak_gib=peak_gib,
        step_seconds=_cpu_seconds(_training_step(training)),
        size=(volume[z].shape[0], volume[z].shape[1]),
    )


def _training_step(training: Training) -> Callable[[], None]:
    """A step on random windows: the time of one does not depend on what is in them."""
    model = create_initial_model(training).train()
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate)
    criterion = create_criterion(training.loss, **training.loss_arguments)
    size = training.window_size or training.preprocessing.roi_size
    images = torch.randn(training.batch_size, training.preprocessing.in_channels, size, size)
    targets = (torch.rand(training.batch_size, 1, size, size) < 0.02).float()

    def step() -> None:
        criterion(model(images), targets, None).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _cpu_seconds(work: Callable[[], object]) -> float:
    """The median CPU time of some rounds, after one that warms up."""
    work()
    times = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return float(np.median(times))


def _peak_gib() -> float | None:
    """The most memory that this process has held, by Linux's own books (ru_maxrss counts the parent's too)."""
    path = Path("/proc/self/status")
    if not path.is_file():
        return None
    lines = (line.split() for line in path.read_text().splitlines())
    return next((int(words[1]) / 2**20 for words in lines if words and words[0] == "VmHWM:"), None)
