"""The settings of the notebook: where its inputs are, and how the models are run."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import DEFAULT_INFERENCE, Inference
from ..data.volume import Volume
from ..models import voxel_size
from .faults import Faults

# Kaggle ends a notebook after 9 hours; the cells before and after the run need some of the rest.
_KAGGLE_HOURS = 8.5


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

    def is_strict(self) -> bool:
        """Whether a fault ends the run."""
        return not on_kaggle() if self.strict is None else self.strict

    def seconds(self) -> float | None:
        """What the run may take; None: any time."""
        hours = _KAGGLE_HOURS if self.time_budget_hours is None and on_kaggle() else self.time_budget_hours
        return None if hours is None else 3600 * hours


def on_kaggle() -> bool:
    """Whether this is one of Kaggle's notebook runs, interactive, saved or the scoring rerun."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ or "KAGGLE_IS_COMPETITION_RERUN" in os.environ


def settle_scale(
    inference: Inference, volumes: Iterable[Volume], checkpoint_paths: Sequence[Path], faults: Faults
) -> Inference:
    """As `voxel_size.settle_scale`; scale 1 where the checkpoints do not say which voxel size they learned from."""
    try:
        return voxel_size.settle_scale(inference, (volume.name for volume in volumes), checkpoint_paths)
    except Exception as error:
        faults.note("scale auto", error, "scale 1 instead")
        return replace(inference, scale=1.0)
