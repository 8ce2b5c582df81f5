"""The settings of the notebook: where its inputs are, and how the models are run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import DEFAULT_INFERENCE, Inference
from ..models import voxel_size
from .faults import Faults


@dataclass(frozen=True)
class KernelSettings:
    """What the notebook's settings cell says."""

    input_dir: Path = Path("/kaggle/input")
    submission_path: Path = Path("/kaggle/working/submission.csv")
    competition: str = "blood-vessel-segmentation"
    """Slug of the competition."""
    checkpoint_source: str = "sennet-kaggle-checkpoints"
    """Slug of the dataset or model that holds the *.safetensors files at any depth; all of them are used, averaged.
    owner/slug where inputs of several owners have that slug."""
    inference: Inference = DEFAULT_INFERENCE
    strict: bool | None = None
    """Whether a fault, such as a damaged slice, ends the run; else it costs what it touches and is listed at the
    end. None: yes locally, no on Kaggle."""
    time_budget_hours: float | None = None
    """When less is left than all that the settings ask for would take, passes are dropped. None: 8.5 on Kaggle, no
    limit locally."""


def settle_scale(
    inference: Inference, names: Iterable[str], checkpoint_paths: Sequence[Path], faults: Faults
) -> Inference:
    """As `voxel_size.settle_scale`; scale 1 where the checkpoints do not say which voxel size they learned from."""
    try:
        return voxel_size.settle_scale(inference, names, checkpoint_paths)
    except Exception as error:
        faults.note("scale auto", error, "scale 1 instead")
        return replace(inference, scale=1.0)
