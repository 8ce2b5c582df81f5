"""What a training run is after each epoch, on disk so that it can go on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .config import Training, check_choices
from .errors import InputError
from .files import replacing
from .losses import create_criterion

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
    """

    def __init__(self, training: Training, output_dir: Path, model: nn.Module, steps_per_epoch: int):
        self.training, self.output_dir, self.model = training, output_dir, model
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

    @property
    def epoch(self) -> int:
        """The last finished epoch, 0 before the first."""
        return len(self.history)

    @property
    def judged_model(self) -> nn.Module:
        """The weights that are judged and saved."""
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
        with replacing(self.output_dir / HISTORY_NAME) as temporary_path:
            pd.DataFrame(self.history).to_csv(temporary_path, index=False, lineterminator="\n")
        # Python's own file, for torch does not say why it could not write to one of its own.
        with replacing(self.output_dir / STATE_NAME) as temporary_path, open(temporary_path, "wb") as file:
            torch.save(state, file)

    def resume(self) -> None:
        """Takes up what an earlier run left, if there is anything.

        Raises:
            InputError: it had other settings, or its file cannot be read.
        """
        for left_over in self.output_dir.glob(f".{STATE_NAME}.*.tmp"):
            left_over.unlink(missing_ok=True)
        path = self.output_dir / STATE_NAME
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            theirs, ours = json.loads(state["settings"]), json.loads(_settings(self.training))
        except Exception as error:  # torch's loader raises many kinds on damaged files
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{path} cannot be gone on from ({reason}): delete it to start anew") from error
        changed = [name for name in ours if theirs.get(name) != ours[name]]
        if changed:
            name = changed[0]
            raise InputError(
                f"{self.output_dir} holds a run with {name} {theirs.get(name)}, now it is {ours[name]}: go on with "
                f"the same settings, or choose another output folder"
            )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.history, self.best_dice = state["history"], state["best_dice"]

    def _parts(self) -> dict[str, Any]:
        parts = {
            "model": self.model,
            "averaged": self.averaged,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}


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
    check_choices(training)
    for name in ("epochs", "batch_size", "accumulate", "learning_rate", "evaluate_every", "gamma"):
        if getattr(training, name) <= 0:
            raise InputError(f"{name} must be positive, got {getattr(training, name)}")
    for name in ("epoch_slices", "workers", "weight_decay", "light", "noise"):
        if getattr(training, name) < 0:
            raise InputError(f"{name} must not be negative, got {getattr(training, name)}")
    if not 0 <= training.ema_decay < 1:
        raise InputError(f"ema_decay must lie in 0..1 (1 excluded), got {training.ema_decay}")
    for name in ("threshold", "pseudo_label_threshold"):
        if not 0 <= getattr(training, name) < 1:
            raise InputError(f"{name} must lie in 0..1 (1 excluded), got {getattr(training, name)}")
    if training.window_size is not None and (training.window_size < 1 or training.preprocessing.region != "windows"):
        raise InputError(
            f"window_size must be positive and goes with region windows, got {training.window_size} and region "
            f"{training.preprocessing.region}"
        )
    if not 0.1 <= training.zoom[0] <= training.zoom[1] <= 10:
        raise InputError(f"zoom must be two factors in 0.1..10, the smaller first, got {training.zoom}")
    create_criterion(
        training.loss, **{name: value for name, value in training.loss_arguments.items() if value != "data"}
    )
    if training.precision == "float16" and not torch.cuda.is_available():
        raise InputError("precision float16 needs a GPU, and there is none here: choose float32 or bfloat16")


def _settings(training: Training) -> str:
    """The settings that decide the result, as JSON."""
    return json.dumps({**dataclasses.asdict(training), "workers": None}, sort_keys=True)
