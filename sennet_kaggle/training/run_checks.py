"""What is wrong with a training run, found before it starts."""

from pathlib import Path
from typing import Any

import numpy as np

from ..config import Training
from ..errors import warn
from ..files import check_output_dir
from ..models.checkpoint import Card
from ..models.identity import check_split, what_was_seen
from .batches import plan_batches
from .evaluate import PICTURE_NAMES
from .training_data import TrainingData, digest_data, open_data
from .training_model import check_model, source_card
from .training_state import (
    HISTORY_NAME,
    STATE_NAME,
    check_checkpoint,
    check_settings,
    read_state,
)

CHECKPOINT_NAME = "checkpoint.safetensors"
OUTPUT_NAMES = (CHECKPOINT_NAME, HISTORY_NAME, STATE_NAME, *PICTURE_NAMES)


def check_run(training: Training, data_dir: Path | str, output_dir: Path) -> TrainingData:
    """Finds what is wrong with a run before it starts; nothing is made.

    Raises:
        InputError: settings that contradict each other or the model, data that are not there, held-out slices whose
            images are learned from, or a folder that cannot be written to.
    """
    check_settings(training)
    check_model(training)
    data = open_data(training, data_dir)
    batches = plan_batches(training, len(data.learned), 1)
    parts = [len(part) for batch in batches for part in np.array_split(batch, min(training.accumulate, len(batch)))]
    if min(parts) == 1:  # where BatchNorm may have nothing to average over
        check_model(training, 1)
    check_split(data.places(data.learned), data.places(data.held_out))
    source, path = source_card(training), training.init_from or training.weights_path
    if source is not None and path is not None:
        _warn_of_source(path, source, data, data_dir)
    check_output_dir(output_dir, OUTPUT_NAMES, [*filter(None, (training.weights_path, training.init_from))])
    return data


def find_earlier(
    training: Training, data: TrainingData, output_dir: Path
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Compares a run with what an earlier one left in its folder; nothing is made.

    Returns:
        What tells the run's data from others, see `digest_data`, and the state to go on from, if there is one.

    Raises:
        InputError: as `read_state` and `check_checkpoint`.
    """
    digest = digest_data(training, data)
    earlier = read_state(output_dir, training, digest)
    if earlier:
        check_checkpoint(output_dir / CHECKPOINT_NAME, training, earlier)
    return digest, earlier


def _warn_of_source(path: str, source: Card, data: TrainingData, data_dir: Path | str) -> None:
    """Says what the checkpoint that a run starts from has seen of the held-out slices, or may have seen."""
    seen = what_was_seen([source], data.places(data.held_out), data_dir)
    if seen.learned:
        warn(
            f"{next(iter(seen.learned))} is held out, but {path} has learned from it: the held-out "
            f"Dice says nothing of slices that the model has not seen"
        )
    if not source.says_what_it_learned:
        warn(f"{path} does not say what it learned from, so no slice can be called unseen by this run")
