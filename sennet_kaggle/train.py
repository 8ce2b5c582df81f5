"""The training loop: labelled slices → a checkpoint, judged on held-out slices the way it will be used."""

import csv
import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .checkpoint import Card, save_checkpoint
from .config import THRESHOLDS, Inference, Training
from .dataset import SliceDataset
from .errors import InputError
from .losses import create_criterion
from .metrics import dice_counts, dice_from_counts
from .models import create_model
from .predict import create_predictor
from .transforms import measure_intensity
from .volume import open_volumes


def fit(training: Training, data_dir: Path | str, output_dir: Path | str) -> Path:
    """Trains a model and writes its best epoch's checkpoint and the history.

    Every few epochs the held-out slices are segmented at their own size; the checkpoint kept is the one
    with the best pooled Dice on them, at its best threshold. Without held-out slices the last epoch is
    kept with threshold 0.5.

    Args:
        training: the settings.
        data_dir: a folder in the competition's layout, with `train/<kidney>`.
        output_dir: made if missing; gets `checkpoint.safetensors` and `metrics.csv`.

    Returns:
        The checkpoint's path.

    Raises:
        InputError: data, a slice id, the model or the loss named in the settings is not there.
    """
    check(training)
    set_seed(training.seed)
    train_set, held_out = split(training, data_dir)
    criterion = create_criterion(training.loss)
    model = create_model(training.model, **_model_arguments(training))
    loader = DataLoader(train_set, training.batch_size, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, epochs=training.epochs, steps_per_epoch=len(loader)
    )
    accelerator = Accelerator()
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)

    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    checkpoint_path = output_dir / "checkpoint.safetensors"
    best_dice = -1.0
    with (
        open(output_dir / "metrics.csv", "w", newline="") as file,
        tqdm(total=training.epochs * len(train_set), unit="slice", desc="training", mininterval=1.0) as progress,
    ):
        history = csv.writer(file, lineterminator="\n")
        history.writerow(["epoch", "loss", "held_out_dice", "threshold", "seconds"])
        for epoch in range(1, training.epochs + 1):
            started = time.perf_counter()
            train_set.epoch = epoch
            loss = train_one_epoch(model, loader, criterion, optimizer, scheduler, accelerator, progress)
            if not np.isfinite(loss):
                raise InputError(f"the loss is {loss} after epoch {epoch}: lower the learning rate")
            last = epoch == training.epochs
            dice, threshold = None, 0.5
            if held_out and (last or epoch % training.evaluate_every == 0):
                dice, threshold = best_threshold(accelerator.unwrap_model(model), held_out, training)
            best = last if held_out is None else dice is not None and dice > best_dice
            if best:
                best_dice = best_dice if dice is None else dice
                card = _card(training, threshold, train_set, {"held_out_dice_pooled": dice, "epoch": epoch})
                save_checkpoint(checkpoint_path, accelerator.unwrap_model(model), card, half=True)
            history.writerow([epoch, f"{loss:.5f}", dice, threshold, f"{time.perf_counter() - started:.2f}"])
            file.flush()
            progress.set_postfix_str(f"epoch {epoch}, loss {loss:.3f}, best Dice {max(best_dice, 0):.3f}")
    return checkpoint_path


def split(training: Training, data_dir: Path | str) -> tuple[SliceDataset, SliceDataset | None]:
    """The slices to learn from, varied at random, and those held out (None when the settings name none)."""
    volumes = open_volumes(data_dir, "train", training.train_volumes)
    train_set = SliceDataset(
        volumes,
        training.preprocessing,
        exclude=training.held_out_slices,
        augment=training.augment,
        seed=training.seed,
    )
    if not training.held_out_slices:
        return train_set, None
    return train_set, SliceDataset(volumes, training.preprocessing, only=training.held_out_slices)


def train_one_epoch(model, loader, criterion, optimizer, scheduler, accelerator, progress) -> float:
    """Fits the model to every training slice once.

    Returns:
        The mean loss over the slices.
    """
    model.train()
    total, slices = 0.0, 0
    for images, targets in loader:
        loss = criterion(model(images), targets)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        total, slices = total + loss.item() * len(images), slices + len(images)
        progress.update(len(images))
    return total / slices


def best_threshold(model: nn.Module, held_out: SliceDataset, training: Training) -> tuple[float, float]:
    """Segments the held-out slices at their own size with every threshold.

    Returns:
        The best pooled Dice, and the threshold that gave it.
    """
    predictor = create_predictor(model, training.preprocessing, 0.5, Inference())
    counts = np.zeros((len(THRESHOLDS), 3), dtype=np.int64)
    for volume, z in held_out.slices.values():
        probability = predictor.predict_slice(volume, z, measure_intensity(volume, training.preprocessing))
        mask_gt = volume.label(z)
        counts += [dice_counts(mask_gt, probability > threshold) for threshold in THRESHOLDS]
    scores = [dice_from_counts(*row) for row in counts.tolist()]
    best = int(np.argmax(scores))
    return scores[best], THRESHOLDS[best]


def check(training: Training) -> None:
    """Raises InputError for settings that no run could have."""
    for name in ("epochs", "batch_size", "learning_rate", "evaluate_every"):
        if getattr(training, name) <= 0:
            raise InputError(f"{name} must be positive, got {getattr(training, name)}")


def _model_arguments(training: Training) -> dict:
    return {"in_channels": training.preprocessing.in_channels, **training.model_arguments}


def _card(training: Training, threshold: float, train_set: SliceDataset, scores: dict[str, float | None]) -> Card:
    # Loading needs the checkpoint alone, so the file it started from is not an argument of the trained model.
    arguments = {name: value for name, value in _model_arguments(training).items() if name != "weights_path"}
    return Card(
        model=training.model,
        model_arguments=arguments,
        preprocessing=training.preprocessing,
        threshold=threshold,
        trained_on=tuple(train_set.slices),
        scores=scores,
        training=dataclasses.asdict(training),
    )
