"""What the recipe's experiments need on a GPU, estimated where there is none: FLOPs, memory, hours.

    python benchmarks/recipe.py

- FLOPs: of one window's forward pass, counted by torch's FlopCounterMode on shapes alone (a multiply and an add are
  two); a training step takes three times as many, for the backward pass multiplies twice as often. (The counter's own
  count of it is too high where convolutions are depthwise.)
- Memory: bytes that autograd keeps for the backward pass, by torch's saved-tensor hooks, each storage once. Measured on
  the CPU for windows of both MEASURED sides, under bfloat16 autocast (as wide as the GPU's float16). What grows from
  one to the other grows with the area, for every layer is a convolution or works pixel by pixel; the rest, the weights
  in half precision, is there once. Weights, gradients and AdamW's two averages take 16 bytes per parameter, the
  averaged weights 4 more. OVERHEAD_GIB stands for CUDA's context, cuDNN's workspaces and fragments; it is not measured.
- Hours of training: windows x FLOPs / (GPUs x TFLOPS). Hours of validation: the held-out kidney's pixels x VIEWS x
  OVERLAP x FLOPs per pixel / TFLOPS (the first process does it alone) x the number of looks. TFLOPS is what such a card
  is taken to reach, see GPUS, and not measured either; put in what your card does. The data path must keep up: it has
  workers processes per GPU.

Prints a Markdown table. Every number in its last columns is an estimate: it has been compared with no GPU.

The last table is the data path: CPU milliseconds on one thread of a training window of each experiment, out of a
phantom decoded once, with the files in the system's memory. Divided by the workers it must stay below a step's time.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.config import Training  # noqa: E402
from sennet_kaggle.data.dataset import SliceDataset  # noqa: E402
from sennet_kaggle.data.phantom import Phantom, write_phantom  # noqa: E402
from sennet_kaggle.data.volume import open_volume  # noqa: E402
from sennet_kaggle.models import create_model  # noqa: E402
from sennet_kaggle.rendering import markdown_table  # noqa: E402
from sennet_kaggle.studies.experiments import EXPERIMENTS, RECIPE  # noqa: E402
from sennet_kaggle.training.losses import create_criterion  # noqa: E402
from sennet_kaggle.training.training_model import model_arguments  # noqa: E402

MEASURED = (128, 192)
OVERHEAD_GIB = 1.5
GPUS = {"16gb": (1, 8.0), "8gpu": (8, 60.0)}
"""GPUs, and TFLOPS that each is taken to reach: an eighth of a T4's 65 in float16, a fifth of an A100's 312."""
HELD_OUT_PIXELS = 501 * 1706 * 1510
VIEWS, OVERLAP = 4, 1.5
PHANTOM, WINDOWS = (48, 512, 512), 32
GIB = 2**30


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    header = ["experiment", "parameters", "GFLOPs of a window, forward", "GiB kept of a window"]
    header += ["windows per GPU and pass", "GiB per GPU", "windows", "hours of training", "and of validation"]
    print(markdown_table(header, [row(name, EXPERIMENTS[name]) for name in RECIPE]))
    print(markdown_table(["experiment", "ms of CPU per window"], data_path()))


def row(name: str, training: Training) -> list[str]:
    model = create_model(training.model, **model_arguments(training))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size, (gpus, tflops) = training.window_size or training.preprocessing.roi_size, GPUS[name.split("-")[1]]
    forward = flops(model, training, size)
    small, large = (kept_bytes(training, side) for side in MEASURED)
    per_pixel = (large - small) / (MEASURED[1] ** 2 - MEASURED[0] ** 2)
    kept, once = per_pixel * size**2, small - per_pixel * MEASURED[0] ** 2
    windows = -(-training.batch_size // (training.accumulate * gpus))
    memory = (kept * windows + once + 20 * parameters) / GIB + OVERHEAD_GIB
    total, looks = training.epochs * training.epoch_slices, training.epochs // training.evaluate_every
    hours = total * 3 * forward / (gpus * tflops * 1e12) / 3600
    looking = looks * HELD_OUT_PIXELS * VIEWS * OVERLAP * forward / size**2 / (tflops * 1e12) / 3600
    return [
        name,
        f"{parameters:,}",
        f"{forward / 1e9:.0f}",
        f"{kept / GIB:.2f}",
        f"{windows} of {size} x {size}",
        f"{memory:.1f}",
        f"{total:,}",
        f"{hours:.1f}",
        f"{looking:.1f}",
    ]


def flops(model: nn.Module, training: Training, size: int) -> int:
    """Of one window's forward pass; nothing is computed."""
    image = torch.empty(1, training.preprocessing.in_channels, size, size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.to("meta")(image)
    return counter.get_total_flops()


def kept_bytes(training: Training, size: int) -> int:
    """What autograd keeps of one window's forward pass and loss."""
    model = create_model(training.model, **model_arguments(training)).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}
    held = []  # else a freed storage's address could be another's

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    image = torch.rand(1, training.preprocessing.in_channels, size, size).to(memory_format=torch.channels_last)
    target = (torch.rand(1, len(training.preprocessing.output_offsets), size, size) < 0.1).float()
    criterion = create_criterion(training.loss, **training.loss_arguments)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(image)
        criterion(logits, target, torch.ones_like(target, dtype=torch.bool))
    return sum(storages.values())


def data_path() -> list[list[str]]:
    """The time of a window by experiment, of those that differ in it."""
    cv2.setNumThreads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        volume = open_volume(write_phantom(Path(folder), "phantom", Phantom(PHANTOM)))
        for name in ("full-16gb", "full-8gpu"):
            training = EXPERIMENTS[name]
            dataset = SliceDataset(
                [volume],
                replace(training.preprocessing, roi_size=training.window_size),
                augment=True,
                zoom=training.zoom,
                light=training.light,
                noise=training.noise,
                planes=training.planes,
                oblique=training.oblique,
                cache_dir=folder,
            )
            started = time.process_time()
            for index in range(WINDOWS):
                dataset[index]
            rows.append([name, f"{1000 * (time.process_time() - started) / WINDOWS:.0f}"])
    return rows


if __name__ == "__main__":
    main()
