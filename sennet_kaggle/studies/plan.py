"""Names of experiments and changed settings → the training runs to make, and what is wrong with them."""

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checks import check_distinct, check_seeds, check_values
from ..config import Training
from ..data.splits import labelled_slices
from ..data.volume import Volume, open_volumes
from ..errors import InputError
from ..models.identity import Places, digest_slices, same_images, what_was_seen
from ..scoring.truth import kidney_of
from ..training.run_checks import check_run, find_earlier
from ..training.training_model import create_initial_model, source_card
from .experiments import EXPERIMENTS, SAM_ZERO_SHOT


def plan(
    experiments: Sequence[str], seeds: Sequence[int], overrides: Mapping[str, Mapping[str, Any]], test_volume: str
) -> list[tuple[str, Training]]:
    """The training runs to make, each with its settings after the overrides.

    Raises:
        InputError: as `compare`.
    """
    if not seeds:
        raise InputError("seeds must be at least one, found none: give --seed 0, or leave the option out")
    check_seeds(seeds)
    check_distinct("seeds", tuple(seeds))
    check_distinct("experiments", tuple(experiments))
    known = (*EXPERIMENTS, SAM_ZERO_SHOT)
    for name in experiments:
        if name not in known:
            raise InputError(f"unknown experiment {name!r}: choose among {', '.join(known)}")
    for pattern in overrides:
        if not fnmatch.filter(experiments, pattern):
            raise InputError(f"override {pattern!r} is of no chosen experiment: {', '.join(experiments)}")
    for pattern, changes in overrides.items():
        if isinstance(changes, Mapping) and "seed" in changes:
            raise InputError(f"override {pattern!r} has seed, which is an option of its own: give --seed")
    plans = []
    for name in experiments:
        if name == SAM_ZERO_SHOT:
            continue
        training = EXPERIMENTS[name]
        for pattern, changes in overrides.items():
            if fnmatch.fnmatchcase(name, pattern):
                training = changed(training, changes, pattern)
        with _named(name):
            check_values(training)
        seen = (*training.train_volumes, *training.held_out_volumes, *map(kidney_of, training.held_out_slices))
        if test_volume in seen:
            raise InputError(f"{test_volume} is the test, but {name} learns or chooses on {', '.join(seen)}")
        plans += [(name, dataclasses.replace(training, seed=seed)) for seed in seeds]
    if not plans:
        raise InputError(f"nothing to train among {', '.join(experiments)}: {SAM_ZERO_SHOT} alone has its own command")
    return plans


def open_test(data_dir: Path | str, name: str) -> Volume:
    """Opens the kidney that is the test.

    Raises:
        InputError: it is missing, has no label, or one of another size than its slice.
    """
    (volume,) = open_volumes(data_dir, "train", (name,))
    labelled = [volume.label_path(z) for z in range(len(volume)) if volume.is_labelled(z)]
    if not labelled:
        raise InputError(f"{name} is the test, but none of its {len(volume)} slices has a label: choose another")
    return volume


def check_variants(
    variants: Sequence[tuple[str, Training]],
    run_dirs: Sequence[Path],
    data_dir: Path | str,
    test: Places,
    test_ids: Sequence[Sequence[str]] = (),
) -> None:
    """Finds what is wrong with trainings before the first one starts.

    Args:
        variants: name, for the message, and settings of each.
        run_dirs: the output folder of each.
        data_dir: a folder in the competition's layout.
        test: slices that none may learn from or choose on, under whatever name.
        test_ids: of each variant, further slices that it must not learn from.

    Raises:
        InputError: as `fit`, where it can be known before a training, or the test has been learned from.
    """
    data = []
    for (name, training), run_dir in zip(variants, run_dirs, strict=True):
        with _named(name):
            data.append(check_run(training, data_dir, run_dir))
            find_earlier(training, data[-1], run_dir)
            if training.weights_path or training.init_from:
                create_initial_model(training)
    for (name, training), each, ids in zip(variants, data, test_ids or [()] * len(variants), strict=True):
        with _named(name):
            _check_unseen(training, labelled_slices(each.plain), data_dir, test)
            source = source_card(training)
            learned = {*ids} & {*(source.trained_on if source else ()), *each.learned}
            if learned:
                raise InputError(f"{min(learned)} is the test, but it has been learned from: choose another checkpoint")


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts the variant before what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _check_unseen(training: Training, theirs: Places, data_dir: Path | str, test: Places) -> None:
    """Compares the images of the test with those of a run's kidneys, and with those of what it starts from."""
    shared = same_images(digest_slices(test), digest_slices(theirs))
    if shared:
        slice_id, twin = next(iter(shared.items()))
        raise InputError(
            f"the test must not be learned from, but {slice_id} is the same image as {twin} "
            f"({len(shared)} of {len(test)} such slices): choose another test volume or other training volumes"
        )
    source = source_card(training)
    seen = what_was_seen([source], test, data_dir) if source else None
    if seen and seen.learned:
        raise InputError(
            f"{next(iter(seen.learned))} is of the test, but it has been learned from by "
            f"{training.init_from or training.weights_path}: choose another checkpoint"
        )


def changed(training: Training, changes: Mapping[str, Any], pattern: str) -> Training:
    """Settings with some replaced; those of a group, such as preprocessing, by a mapping of their own."""
    fields = {field.name: getattr(training, field.name) for field in dataclasses.fields(training)}
    if not isinstance(changes, Mapping):
        raise InputError(f"override {pattern!r} must be a mapping of settings, got {changes!r}")
    unknown = sorted(changes.keys() - fields.keys())
    if unknown:
        raise InputError(
            f"override {pattern!r} has the unknown setting {unknown[0]!r}: choose among {', '.join(fields)}"
        )
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if dataclasses.is_dataclass(fields[name]):
            value = changed(fields[name], value, f"{pattern}.{name}")
        values[name] = tuple(value) if isinstance(fields[name], tuple) and isinstance(value, list) else value
    return dataclasses.replace(training, **values)
