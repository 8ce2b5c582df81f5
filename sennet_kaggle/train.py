"""The training loop: labelled slices → a checkpoint, judged on held-out slices the way it will be used."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import is_tensorboard_available, set_seed
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .checkpoint import Card, save_checkpoint
from .config import DEFAULT_INFERENCE, Training
from .dataset import SliceDataset, split_slices
from .distributed import sum_over_processes, synchronize_batch_norm
from .errors import InputError, warn
from .evaluate import JUDGEMENT, PICTURE_NAMES, draw, evaluate
from .files import check_output_dir, make_dir
from .identity import check_split, digest_slices
from .losses import Criterion, create_criterion
from .models import create_model
from .probability import add_pseudo_labels
from .training_state import HISTORY_NAME, STATE_NAME, TrainingState, check_settings
from .volume import open_volumes

CHECKPOINT_NAME = "checkpoint.safetensors"
OUTPUT_NAMES = (CHECKPOINT_NAME, HISTORY_NAME, STATE_NAME, *PICTURE_NAMES)
_MIXED_PRECISION = {"float32": "no", "float16": "fp16", "bfloat16": "bf16"}


def fit(training: Training, data_dir: Path | str, output_dir: Path | str, cache_dir: Path | str | None = None) -> Path:
    """Trains a model, or goes on where an earlier call with the same settings was stopped.

    Every few epochs the held-out slices are segmented at their own size; the checkpoint kept is the one
    with the best pooled Dice on them, at its best threshold. Without held-out slices the last epoch is
    kept with threshold 0.5. What is random in an epoch follows from (seed, epoch) alone and everything
    else is saved after each, so a run that was killed ends, on the CPU, with the weights of one that was not.

    Args:
        training: the settings.
        data_dir: a folder in the competition's layout, with `train/<kidney>`.
        output_dir: made if missing; gets `checkpoint.safetensors`, `metrics.csv`, `curves.png`,
            `predictions.png`, `tensorboard/`, and `training-state.pt` to go on from.
        cache_dir: where resized slices are kept between epochs and runs; `output_dir/cache` when None.

    Returns:
        The checkpoint's path.

    Raises:
        InputError: data, a slice id, the model or the loss named in the settings is not there, `output_dir`
            holds a run with other settings, or the loss is not finite.
    """
    check_settings(training)
    output_dir = Path(output_dir)
    check_output_dir(output_dir, OUTPUT_NAMES, () if training.weights_path is None else (training.weights_path,))
    check_output_dir(cache_dir or output_dir / "cache")
    accelerator = create_accelerator(training, output_dir)
    set_seed(training.seed)
    model = create_model(training.model, **_model_arguments(training))
    model = model.to(memory_format=memory_format(accelerator.device))
    train_set, held_out = split(training, data_dir, cache_dir or output_dir / "cache")
    digests = digest_slices({**train_set.slices, **(held_out.slices if held_out else {})})
    criterion = create_criterion(training.loss, **_loss_arguments(training, train_set))
    accelerator.print(_describe(train_set, held_out))
    if accelerator.num_processes > 1:
        synchronize_batch_norm(model)
    make_dir(output_dir)
    state = TrainingState(training, output_dir, model, steps_per_epoch=len(plan_batches(training, len(train_set), 1)))
    model, optimizer = accelerator.prepare(model, state.optimizer)
    state.scaler = accelerator.scaler
    state.resume()

    if not is_tensorboard_available():
        warn("no TensorBoard events are written: pip install tensorboard, or -r requirements.txt, to have them")
    accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": state.epoch + 1}})
    with _progress(training, train_set, state.epoch, accelerator) as progress:
        for epoch in range(state.epoch + 1, training.epochs + 1):
            started = time.perf_counter()
            train_set.epoch = epoch
            set_seed(training.seed * 1_000_003 + epoch)
            row = train_one_epoch(model, train_set, criterion, optimizer, state, accelerator, training, progress)
            row["seconds"] = time.perf_counter() - started
            if accelerator.is_main_process:
                judge(state, row, train_set, held_out, digests)
                state.finish_epoch(row)
                accelerator.log({name: value for name, value in row.items() if value is not None}, step=epoch)
            accelerator.wait_for_everyone()
    accelerator.end_training()
    if accelerator.is_main_process:
        draw(output_dir, output_dir / CHECKPOINT_NAME, output_dir / HISTORY_NAME, held_out or train_set)
    return output_dir / CHECKPOINT_NAME


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last, but on CPUs without AVX-512: oneDNN's weight gradients take 3 to 5 times as long in it there."""
    fast = device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.channels_last if fast else torch.contiguous_format


def train_one_epoch(
    model: nn.Module,
    train_set: SliceDataset,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    accelerator: Accelerator,
    training: Training,
    progress: tqdm,
) -> dict[str, Any]:
    """Fits the model to the slices of one epoch.

    Returns:
        epoch, learning_rate at its start, the mean loss, and the soft Dice pooled over all its slices.

    Raises:
        InputError: the loss is not finite.
    """
    model.train()
    batches = plan_batches(training, len(train_set), train_set.epoch)
    learning_rate = state.schedule.get_last_lr()[0]
    steps = [list(passes(batch, training.accumulate, accelerator)) for batch in batches]
    loader = DataLoader(
        train_set,
        batch_sampler=[own for step in steps for own, _ in step],
        num_workers=training.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    pairs = iter(loader)
    losses, overlap, sizes = 0.0, 0.0, 0.0
    for number, step in enumerate(steps, 1):
        loss = 0.0
        for own, share in step:
            images, targets = (tensor.to(accelerator.device, non_blocking=True) for tensor in next(pairs))
            last = own is step[-1][0]
            with contextlib.nullcontext() if last else accelerator.no_sync(model):
                logits = model(images.contiguous(memory_format=memory_format(accelerator.device)))
                pass_loss = criterion(logits, targets) * share
                _check_finite(pass_loss, logits, train_set, own, number)
                accelerator.backward(pass_loss)
            loss += pass_loss.item()
            with torch.no_grad():
                probability = logits.float().sigmoid()
                overlap += (probability * targets).sum()
                sizes += probability.sum() + targets.sum()
        optimizer.step()
        optimizer.zero_grad()
        state.finish_step()
        losses += loss * len(batches[number - 1])
        progress.set_postfix_str(
            f"epoch {train_set.epoch}/{training.epochs}, loss {loss:.4f}, Dice {2 * overlap / sizes:.3f}", refresh=False
        )
        progress.update(len(batches[number - 1]))
    overlap, sizes = (sum_over_processes(total).item() for total in (overlap, sizes))
    return {
        "epoch": train_set.epoch,
        "learning_rate": learning_rate,
        "loss": losses / sum(map(len, batches)),
        "dice_soft": 2 * overlap / sizes,
    }


def plan_batches(training: Training, slices: int, epoch: int) -> list[np.ndarray]:
    """The indices of each optimizer step of an epoch, drawn by (seed, epoch) alone, in rounds over all slices.

    A later round counts on from the number of slices, so that a slice drawn again is varied anew.

    Args:
        training: seed, batch_size and epoch_slices.
        slices: how many there are.
        epoch: from 1.
    """
    rng = np.random.default_rng((training.seed, epoch))
    wanted = training.epoch_slices or slices
    rounds = [start + rng.permutation(slices) for start in range(0, wanted, slices)]
    order = np.concatenate(rounds)[:wanted]
    return np.split(order, range(training.batch_size, wanted, training.batch_size))


def passes(batch: np.ndarray, accumulate: int, accelerator: Accelerator) -> Iterator[tuple[list[int], float]]:
    """Splits one optimizer step into forward passes, and each of those among the processes.

    A part that the processes do not divide is filled up with its own first slices.

    Yields:
        This process's indices, and the part of the batch that the pass of all processes makes.
    """
    processes = accelerator.num_processes
    for part in np.array_split(batch, min(accumulate, len(batch))):
        filled = np.resize(part, -(-len(part) // processes) * processes)
        yield filled[accelerator.process_index :: processes].tolist(), len(part) / len(batch)


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
    )


def split(
    training: Training, data_dir: Path | str, cache_dir: Path | str | None = None
) -> tuple[SliceDataset, SliceDataset | None]:
    """The slices to learn from, varied at random, and those held out (None when the settings name none)."""
    names = (*training.train_volumes, *training.held_out_volumes)
    volumes = open_volumes(data_dir, "train", tuple(dict.fromkeys(names)))
    learned, held_out = split_slices(
        volumes,
        held_out_volumes=training.held_out_volumes,
        held_out_slices=training.held_out_slices,
        held_out_fraction=training.held_out_fraction,
        seed=training.seed,
    )
    places = {slice_id: (volume, z) for volume in volumes for z, slice_id in enumerate(volume.slice_ids)}
    check_split({each: places[each] for each in learned}, {each: places[each] for each in held_out})
    held_out_set = SliceDataset(volumes, training.preprocessing, only=held_out) if held_out else None
    if training.pseudo_label_dir is not None:
        volumes = add_pseudo_labels(volumes, training.pseudo_label_dir, training.pseudo_label_threshold)
        cache_dir = None  # it knows the labels' files only
    roi_size = training.window_size or training.preprocessing.roi_size
    train_set = SliceDataset(
        volumes,
        dataclasses.replace(training.preprocessing, roi_size=roi_size),
        only=learned,
        augment=training.augment,
        zoom=training.zoom,
        light=training.light,
        noise=training.noise,
        seed=training.seed,
        cache_dir=cache_dir,
    )
    return train_set, held_out_set


def judge(
    state: TrainingState,
    row: dict[str, Any],
    train_set: SliceDataset,
    held_out: SliceDataset | None,
    digests: dict[str, str],
) -> None:
    """Looks at the held-out slices when it is time, completes the epoch's row, and keeps the best checkpoint."""
    training, epoch = state.training, row["epoch"]
    last = epoch == training.epochs
    look = held_out is not None and (last or epoch % training.evaluate_every == 0)
    row |= evaluate(state.judged_model, held_out, training) if look else dict.fromkeys(JUDGEMENT)
    best = last if held_out is None else look and row["held_out_dice"] > state.best_dice
    if best:
        state.best_dice = row["held_out_dice"] if look else state.best_dice
        card = _card(training, row, train_set, held_out, digests)
        save_checkpoint(state.output_dir / CHECKPOINT_NAME, state.judged_model, card, half=True)


def _check_finite(loss: torch.Tensor, logits: torch.Tensor, train_set: SliceDataset, own: list[int], step: int) -> None:
    if torch.isfinite(loss):
        return
    slice_ids = [train_set.slice_ids[index % len(train_set)] for index in own]
    finite = logits.isfinite().flatten(1).all(1).tolist()
    wrong = [slice_id for slice_id, fine in zip(slice_ids, finite, strict=True) if not fine] or slice_ids
    raise InputError(
        f"the loss is {loss.item()} at step {step} of epoch {train_set.epoch}, with {', '.join(wrong)}: look at these "
        f"slices, or lower the learning rate"
    )


def _progress(training: Training, train_set: SliceDataset, epochs_done: int, accelerator: Accelerator) -> tqdm:
    per_epoch = training.epoch_slices or len(train_set)
    return tqdm(
        total=training.epochs * per_epoch,
        initial=epochs_done * per_epoch,
        unit="slice",
        desc="training",
        mininterval=1.0,
        disable=not accelerator.is_main_process,
    )


def _describe(train_set: SliceDataset, held_out: SliceDataset | None) -> str:
    parts = [f"{len(train_set)} slices to learn from"]
    parts += [f"{len(held_out)} held out ({', '.join(held_out.slices)})"] if held_out else ["none held out"]
    parts += [f"{count} unlabelled in {name} left out" for name, count in train_set.unlabelled.items() if count]
    return ", ".join(parts)


def _model_arguments(training: Training) -> dict[str, Any]:
    arguments = {"in_channels": training.preprocessing.in_channels, **training.model_arguments}
    return arguments if training.weights_path is None else {**arguments, "weights_path": training.weights_path}


def _loss_arguments(training: Training, train_set: SliceDataset) -> dict[str, Any]:
    if training.loss_arguments.get("pos_weight") != "data":
        return training.loss_arguments
    fraction = train_set.vessel_fraction()
    if not fraction:
        raise InputError('pos_weight "data" needs vessels in the training slices, found none: give a number')
    return {**training.loss_arguments, "pos_weight": (1 - fraction) / fraction}


def _card(
    training: Training,
    row: dict[str, Any],
    train_set: SliceDataset,
    held_out: SliceDataset | None,
    digests: dict[str, str],
) -> Card:
    # Loading needs the checkpoint alone, so the file it started from is not an argument of the trained model.
    arguments = {name: value for name, value in _model_arguments(training).items() if name != "weights_path"}
    return Card(
        model=training.model,
        model_arguments=arguments,
        preprocessing=training.preprocessing,
        threshold=training.threshold if row["threshold"] is None else row["threshold"],
        trained_on=tuple(train_set.slices),
        scores={"held_out_dice_pooled": row["held_out_dice"], "epoch": row["epoch"]},
        training={
            **dataclasses.asdict(training),
            "held_out": list(held_out.slices) if held_out else [],
            "judged_with": dataclasses.asdict(DEFAULT_INFERENCE),
        },
        image_digests=digests,
    )
