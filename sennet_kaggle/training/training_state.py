"""What a training run is after each epoch, on disk so that it can go on."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..config import Training
from ..errors import InputError, warn
from ..files import file_digest, replacing, write_whole
from .losses import STACK_LOSSES, create_criterion
from .training_data import difference

HISTORY_NAME = "metrics.csv"
STATE_NAME = "training-state.pt"
_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class TrainingState:
    """A model with its optimizer, learning-rate schedule and history.

    Args:
        training: the settings.
        output_dir: holds, or gets, `metrics.csv` and `training-state.pt`.
        model: with fresh weights.
        steps_per_epoch: optimizer steps, for the schedule.
        data: what tells the run's data from other data, see `training_data.digest_data`.
    """

    def __init__(
        self,
        training: Training,
        output_dir: Path,
        model: nn.Module,
        steps_per_epoch: int,
        data: Mapping[str, Any] | None = None,
    ):
        self.training, self.output_dir, self.model, self.data = training, output_dir, model, data
        self.optimizer = _OPTIMIZERS[training.optimizer](
            model.parameters(), training.learning_rate, weight_decay=training.weight_decay
        )
        self.schedule = create_schedule(training, self.optimizer, steps_per_epoch)
        self.averaged: AveragedModel | None = None
        """The exponential moving average of the weights and of BatchNorm's statistics (Tarvainen 2017)."""
        if training.ema_decay:
            average = get_ema_multi_avg_fn(training.ema_decay)
            self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.scaler: torch.amp.GradScaler | None = None
        """Of float16 training."""
        self.history: list[dict[str, Any]] = []
        """A row per finished epoch."""
        self.best_dice = -1.0
        self.checkpoint: str | None = None
        """Hash of the checkpoint that is kept, once there is one."""

    @property
    def epoch(self) -> int:
        """The last finished epoch, 0 before the first."""
        return len(self.history)

    @property
    def validated_model(self) -> nn.Module:
        """The weights that are validated and saved."""
        return self.model if self.averaged is None else self.averaged.module

    def finish_step(self) -> None:
        """Takes the schedule and the average on by an optimizer step."""
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Adds the epoch's row to `metrics.csv` and leaves all that is needed to go on."""
        self.history.append(row)
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"settings": _settings(self.training), "history": self.history, "best_dice": self.best_dice}
        state |= {"data": json.dumps(self.data), "checkpoint": self.checkpoint}
        write_history(self.output_dir, self.history)
        # Python's own file, for torch does not say why it could not write to one of its own.
        with replacing(self.output_dir / STATE_NAME) as temporary_path, open(temporary_path, "wb") as file:
            torch.save(state, file)

    def keep(self, checkpoint_path: Path) -> None:
        """Remembers a checkpoint as the run's."""
        self.checkpoint = file_digest(checkpoint_path).hex()

    def resume(self, earlier: Mapping[str, Any] | None) -> None:
        """Takes up what an earlier run left, see `read_state`."""
        if earlier is None:
            return
        for name, part in self._parts().items():
            if name != "scaler" or name in earlier:  # a run of the CPU left none
                part.load_state_dict(earlier[name])
        self.history, self.best_dice = earlier["history"], earlier["best_dice"]
        self.checkpoint = earlier.get("checkpoint")

    def _parts(self) -> dict[str, Any]:
        parts = {
            "model": self.model,
            "averaged": self.averaged,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}


def read_state(output_dir: Path, training: Training, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads what an earlier run of the same settings and data left in a folder.

    Args:
        output_dir: the folder.
        training: the settings.
        data: what tells the run's data from other data, see `training_data.digest_data`.

    Returns:
        The state for `TrainingState.resume`; None where no epoch has been finished.

    Raises:
        InputError: it had other settings, data or weights, its checkpoint is missing, or its file cannot be read.
    """
    path = output_dir / STATE_NAME
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        theirs, ours = (json.loads(each) for each in (state["settings"], _settings(training)))
        theirs = {**json.loads(_settings(Training())), **theirs}  # an earlier version lacks later settings
        before, now = json.loads(state.get("data", "null")), json.loads(json.dumps(data))
    except Exception as error:  # torch's loader raises many kinds on damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be gone on from ({reason}): delete it to start anew") from error
    changed = [name for name in ours if theirs.get(name) != ours[name]]
    if changed:
        name = changed[0]
        raise InputError(
            f"{output_dir} holds a run with {name} {theirs.get(name)}, now it is {ours[name]}: go on with "
            f"the same settings, or choose another output folder"
        )
    if before is None:
        warn(f"{path} is of an earlier version, which did not keep what its data were: taken to be the same")
    elif text := difference(before, now):
        raise InputError(
            f"{output_dir} holds a run with other data: {text}; go on with the same data, or choose another output "
            f"folder"
        )
    return state


def remove_leftovers(output_dir: Path) -> None:
    """Deletes what a run that was killed had half written; the caller has claimed the folder."""
    for path in output_dir.glob(f".{STATE_NAME}.*.tmp"):
        path.unlink(missing_ok=True)


def write_history(output_dir: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Writes `metrics.csv`, unless it is there as it must be."""
    text = pd.DataFrame(history).to_csv(index=False, lineterminator="\n").encode()
    path = output_dir / HISTORY_NAME
    if not path.is_file() or path.read_bytes() != text:
        write_whole(path, text)


def is_finished(training: Training, state: Mapping[str, Any] | None) -> bool:
    """Whether nothing is left to train."""
    return state is not None and len(state["history"]) >= training.epochs


def check_checkpoint(path: Path, training: Training, state: Mapping[str, Any]) -> None:
    """Compares the checkpoint that an earlier run left with what its state says of it.

    Raises:
        InputError: it is missing, or, after the last epoch, another file.
    """
    finished = is_finished(training, state)
    if not path.is_file() and (finished or state.get("checkpoint")):
        raise InputError(
            f"{path.parent} holds a run whose {path.name} is missing: put it back, or delete {STATE_NAME} there to "
            f"train anew"
        )
    # Before the last epoch it may be newer than the state, where the run was killed between the two.
    if finished and state.get("checkpoint", file_digest(path).hex()) != file_digest(path).hex():
        raise InputError(
            f"{path} is not the checkpoint that the finished run there wrote: put that back, or choose another output "
            f"folder"
        )


def create_schedule(
    training: Training, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate per optimizer step."""
    if training.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, training.learning_rate, epochs=training.epochs, steps_per_epoch=steps_per_epoch
        )
    epochs = {"constant": (), "step": range(1, training.epochs), "multi_step": training.milestones}[training.schedule]
    milestones = [epoch * steps_per_epoch for epoch in epochs]
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, training.gamma)


def check_settings(training: Training) -> None:
    """Raises InputError for settings that no run could have."""
    training.check()
    by_data = training.loss_arguments.get("pos_weight") == "data"
    create_criterion(training.loss, **training.loss_arguments | ({"pos_weight": 1.0} if by_data else {}))
    offsets = training.preprocessing.output_offsets
    if training.loss in STACK_LOSSES and (len(offsets) < 2 or any(b - a != 1 for a, b in pairwise(offsets))):
        raise InputError(
            f"loss {training.loss!r} needs outputs for neighbouring slices in their order, found offsets "
            f"{training.preprocessing.offsets} and outputs {training.preprocessing.outputs!r}: choose such as offsets "
            f"-1 0 1 and outputs all"
        )
    if training.precision == "float16" and not torch.cuda.is_available():
        raise InputError("precision float16 needs a GPU, and there is none here: choose float32 or bfloat16")


def _settings(training: Training) -> str:
    """The settings that decide the result, as JSON."""
    return json.dumps({**dataclasses.asdict(training), "workers": None}, sort_keys=True)
