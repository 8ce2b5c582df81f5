"""The devices, processes and arithmetic of a training run."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, is_tensorboard_available

from ..config import Training
from ..distributed import PATIENCE

_MIXED_PRECISION = {"float32": "no", "float16": "fp16", "bfloat16": "bf16"}


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last, but on CPUs without AVX-512: oneDNN's weight gradients take 3 to 5 times as long in it there."""
    fast = device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.channels_last if fast else torch.contiguous_format


def create_accelerator(training: Training, output_dir: Path) -> Accelerator:
    """Finds the devices and processes that this run has."""
    has_gpu = torch.cuda.is_available()
    precision = training.precision
    if precision == "auto":
        precision = "float16" if has_gpu else "float32"
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    return Accelerator(
        cpu=not has_gpu,  # else it takes several CPU processes for one each
        mixed_precision=_MIXED_PRECISION[precision],
        log_with="tensorboard" if is_tensorboard_available() else None,
        project_dir=str(output_dir),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],  # the first one validates while the others wait
    )
