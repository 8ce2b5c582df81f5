"""The training loop: labelled slices → a checkpoint, validated on held-out slices the way it will be used."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, set_seed
from torch import nn
from torch.utils.data import DataLoader

from ..config import DEFAULT_INFERENCE, Training
from ..data.dataset import SliceDataset
from ..distributed import WholeBatchNorm, explaining_lost_peers, sum_over_processes
from ..errors import InputError, warn
from ..files import check_output_dir
from ..locking import claim_dir
from ..models.checkpoint import Card, save_checkpoint
from ..models.identity import digest_slices
from ..progress import Bar, progress_bar
from .accelerator import create_accelerator, memory_format
from .batches import passes, plan_batches
from .evaluate import PICTURE_NAMES, VALIDATION, draw, evaluate
from .losses import Criterion, create_criterion
from .run_checks import CHECKPOINT_NAME, check_run, find_earlier
from .scan_data import import_scans, voxel_size_of
from .training_data import describe_sets, make_sets
from .training_model import check_shared, create_initial_model, model_arguments, source_card
from .training_state import (
    HISTORY_NAME,
    TrainingState,
    is_finished,
    remove_leftovers,
    write_history,
)


def fit(
    training: Training,
    data_dir: Path | str,
    output_dir: Path | str,
    cache_dir: Path | str | None = None,
    label: str = "training",
) -> Path:
    """Trains a model, or goes on where an earlier call with the same settings was stopped.

    Every few epochs the held-out slices are segmented at their own size; the checkpoint kept is the one
    with the best pooled Dice on them, at its best threshold. Without held-out slices the last epoch is
    kept with threshold 0.5. What is random in an epoch follows from (seed, epoch) alone and everything
    else is saved after each, so a run that was killed ends, on the CPU, with the weights of one that was not.

    Args:
        training: the settings.
        data_dir: a folder in the competition's layout, with `train/<kidney>`; also with scans and masks in other
            formats (see `import_scans`).
        output_dir: made if missing; gets `checkpoint.safetensors`, `metrics.csv`, `curves.png`,
            `predictions.png`, `tensorboard/`, and `training-state.pt` to go on from.
        cache_dir: where resized slices are kept between epochs and runs; `output_dir/cache` when None.
        label: of the progress bar, such as "model 2 of 7".

    Returns:
        The checkpoint's path.

    Raises:
        InputError: data, a slice id, the model or the loss named in the settings is not there, `output_dir`
            holds a run with other settings or data, or another process writes to it, or the loss is not finite.
    """
    output_dir = Path(output_dir)
    training.check()
    data_dir = import_scans(training, data_dir, cache_dir or output_dir / "cache")
    data = check_run(training, data_dir, output_dir)
    check_output_dir(cache_dir or output_dir / "cache")
    accelerator = create_accelerator(training, output_dir)
    set_seed(training.seed)
    model = create_initial_model(training)
    if accelerator.num_processes > 1:
        check_shared(model)
    with claim_dir(output_dir) if accelerator.is_main_process else contextlib.nullcontext():
        digest, earlier = find_earlier(training, data, output_dir)
        if accelerator.is_main_process:
            remove_leftovers(output_dir)
        if earlier is not None and is_finished(training, earlier):
            accelerator.print(f"already finished, nothing to train: {output_dir} has all {training.epochs} epochs")
            if accelerator.is_main_process:
                write_history(output_dir, earlier["history"])
        if is_finished(training, earlier) and (output_dir / PICTURE_NAMES[-1]).is_file():
            return output_dir / CHECKPOINT_NAME
        sets = make_sets(training, data, cache_dir or output_dir / "cache")
        with explaining_lost_peers():
            _train(training, output_dir, accelerator, model, sets, digest, earlier, label)
    return output_dir / CHECKPOINT_NAME


def _train(
    training: Training,
    output_dir: Path,
    accelerator: Accelerator,
    model: nn.Module,
    sets: tuple[SliceDataset, SliceDataset | None],
    digest: dict[str, Any],
    earlier: dict[str, Any] | None,
    label: str,
) -> None:
    """The loop over the epochs that are left, and the pictures."""
    train_set, held_out = sets
    digests = digest_slices({**train_set.slices, **(held_out.slices if held_out else {})})
    criterion = create_criterion(training.loss, **_loss_arguments(training, train_set))
    accelerator.print(describe_sets(train_set, held_out))
    steps_per_epoch = len(plan_batches(training, len(train_set), 1))
    # There before the average of its weights is made, which then lives there too.
    layout = memory_format(accelerator.device)
    model = model.to(accelerator.device, memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
    state = TrainingState(training, output_dir, model, steps_per_epoch, digest)
    model, optimizer = accelerator.prepare(model, state.optimizer)
    state.scaler = accelerator.scaler
    state.resume(earlier)

    if not is_tensorboard_available():
        warn("no TensorBoard events are written: pip install tensorboard, or -r requirements.txt, to have them")
    accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": state.epoch + 1}})
    with _progress(training, train_set, state.epoch, accelerator, label) as progress:
        for epoch in range(state.epoch + 1, training.epochs + 1):
            started = time.perf_counter()
            train_set.epoch = epoch
            if training.distinct_epochs:
                train_set.variation = (epoch - 1) % training.distinct_epochs + 1
            set_seed((training.seed * 1_000_003 + epoch) % 2**32)
            row = train_one_epoch(model, train_set, criterion, optimizer, state, accelerator, training, progress)
            row["seconds"] = time.perf_counter() - started
            if accelerator.is_main_process:
                validate(state, row, train_set, held_out, digests)
                state.finish_epoch(row)
                accelerator.log({name: value for name, value in row.items() if value is not None}, step=epoch)
            accelerator.wait_for_everyone()
    accelerator.end_training()
    if accelerator.is_main_process:
        draw(output_dir, output_dir / CHECKPOINT_NAME, output_dir / HISTORY_NAME, held_out or train_set)


def train_one_epoch(
    model: nn.Module,
    train_set: SliceDataset,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    accelerator: Accelerator,
    training: Training,
    progress: Bar,
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
    several = accelerator.num_processes > 1
    loader = DataLoader(
        train_set,
        batch_sampler=[each.own for step in steps for each in step],
        num_workers=training.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    pairs = iter(loader)
    losses = 0.0
    overlap, sizes, vessels = (torch.zeros((), device=accelerator.device) for _ in range(3))
    for number, step in enumerate(steps, 1):
        loss = 0.0
        for each in step:
            images, targets = (tensor.to(accelerator.device, non_blocking=True) for tensor in next(pairs))
            images = images.contiguous(memory_format=memory_format(accelerator.device))
            valid_mask = None
            stacked = training.preprocessing.outputs == "all" or training.cuts_planes
            if stacked or train_set.is_partly_annotated or not each.counts:
                valid_mask = targets.isfinite() & each.counts
                targets = targets.nan_to_num()
            with contextlib.ExitStack() as stack:
                if each is not step[-1]:
                    stack.enter_context(accelerator.no_sync(model))
                with WholeBatchNorm(each.counts) if several else contextlib.nullcontext():
                    logits = model(images)
                pass_loss = criterion(logits, targets, valid_mask) * each.share
                _check_finite(pass_loss, logits, train_set, each.own, number)
                accelerator.backward(pass_loss)
            loss += pass_loss.item()
            with torch.no_grad():
                probability = logits.float().sigmoid()
                if valid_mask is not None:
                    probability, targets = probability[valid_mask], targets[valid_mask]
                overlap += (probability * targets).sum()
                sizes += probability.sum() + targets.sum()
                vessels += targets.sum()
        optimizer.step()
        optimizer.zero_grad()
        state.finish_step()
        losses += loss * len(batches[number - 1])
        progress.set_postfix_str(
            f"epoch {train_set.epoch}/{training.epochs}, loss {loss:.4f}, Dice {2 * overlap / sizes:.3f}", refresh=False
        )
        progress.update(len(batches[number - 1]))
    dice_overlap, dice_sizes, any_vessels = (sum_over_processes(total).item() for total in (overlap, sizes, vessels))
    if not any_vessels and accelerator.is_main_process:
        warn(f"no vessel was seen in epoch {train_set.epoch}: look at the labels", once_for="no vessel")
    return {
        "epoch": train_set.epoch,
        "learning_rate": learning_rate,
        "loss": losses / sum(map(len, batches)),
        "dice_soft": 2 * dice_overlap / dice_sizes,
    }


def validate(
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
    row |= evaluate(state.validated_model, held_out, training) if held_out and look else dict.fromkeys(VALIDATION)
    best = last if held_out is None else look and row["held_out_dice"] > state.best_dice
    if best:
        state.best_dice = row["held_out_dice"] if look else state.best_dice
        card = _card(training, row, train_set, held_out, digests)
        save_checkpoint(state.output_dir / CHECKPOINT_NAME, state.validated_model, card, half=True)
        state.keep(state.output_dir / CHECKPOINT_NAME)


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


def _progress(
    training: Training, train_set: SliceDataset, epochs_done: int, accelerator: Accelerator, label: str
) -> Bar:
    per_epoch = training.epoch_slices or len(train_set)
    total, done = training.epochs * per_epoch, epochs_done * per_epoch
    return progress_bar(label, total, initial=done, shown=accelerator.is_main_process)


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
    source, surface_dice = source_card(training), row["held_out_surface_dice"]
    return Card(
        model=training.model,
        model_arguments=model_arguments(training),
        preprocessing=training.preprocessing,
        threshold=training.threshold if row["threshold"] is None else row["threshold"],
        trained_on=tuple(dict.fromkeys((*(source.trained_on if source else ()), *train_set.slices))),
        scores={
            "held_out_dice_pooled": row["held_out_dice"],
            **({} if surface_dice is None else {"held_out_surface_dice": surface_dice}),
            "epoch": row["epoch"],
        },
        training={
            **dataclasses.asdict(training),
            "held_out": list(held_out.slices) if held_out else [],
            "slices": len(train_set),
            "judged_with": dataclasses.asdict(DEFAULT_INFERENCE),
            "source_unknown": source is not None and not source.says_what_it_learned,
        },
        image_digests={**(source.image_digests if source else {}), **digests},
        voxel_size_um=voxel_size_of(train_set.volumes),
    )
