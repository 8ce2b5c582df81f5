"""Probability maps kept on disk in 8 bits, to try thresholds without running the model again."""

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ..data.volume import Volume
from ..errors import InputError
from ..files import check_output_dir, format_size, make_dir, open_reserved, replacing, write_whole

Map = TypeVar("Map", np.ndarray, torch.Tensor)
# A threshold t keeps what is stored above 255 t; the values between are 0.4 % wide.
LEVELS = 255


@dataclass(frozen=True)
class ProbabilityVolume:
    """A kidney's probability, memory-mapped."""

    name: str
    slice_ids: list[str]
    levels: np.ndarray
    """(D, H, W) uint8: 0 for probability 0, 255 for 1."""
    learned: dict[str, str] = dataclasses.field(default_factory=dict)
    """What `note_learned` was given for slices of it."""

    @property
    def slice_size(self) -> tuple[int, int]:
        """(H, W)."""
        _, height, width = self.levels.shape
        return height, width


@dataclass(frozen=True)
class PseudoLabelledVolume(Volume):
    """A kidney whose labels lack vessels, which a trained model adds where it is sure (Lee 2013)."""

    levels: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    """(D, H, W) uint8, as of `ProbabilityVolume`."""
    threshold: float = 0.5

    def label(self, z: int) -> np.ndarray:
        """Reads the label of slice z and adds what is above the threshold: (H, W) bool."""
        return super().label(z) | (self.levels[z] > LEVELS * self.threshold)

    def label_digests(self, zs: Sequence[int]) -> list[bytes]:
        """As of the labels' files, each with what is added to it."""
        added = (np.packbits(self.levels[z] > LEVELS * self.threshold).tobytes() for z in zs)
        files = super().label_digests(zs)
        return [hashlib.blake2b(digest + bits).digest() for digest, bits in zip(files, added, strict=True)]


def add_pseudo_labels(volumes: Sequence[Volume], probability_dir: Path | str, threshold: float) -> list[Volume]:
    """Completes the labels of those kidneys that have kept probabilities; no slice becomes labelled by it.

    Args:
        volumes: kidneys; those without probabilities stay as they are.
        probability_dir: of `predict --save-probability`.
        threshold: probability above which a pixel becomes vessel, 0..1.

    Raises:
        InputError: as `open_probabilities`, or probabilities of none of the kidneys or of other slices.
    """
    kept = {kidney.name: kidney for kidney in open_probabilities(probability_dir)}
    if not kept.keys() & {volume.name for volume in volumes}:
        raise InputError(
            f"{probability_dir} has probabilities of {', '.join(kept)}, but the training is on "
            f"{', '.join(volume.name for volume in volumes)}: predict one of these"
        )
    for volume in volumes:
        if volume.name in kept and (
            kept[volume.name].slice_ids != volume.slice_ids or kept[volume.name].slice_size != volume.slice_size(0)
        ):
            raise InputError(f"{probability_dir} has other slices of {volume.name} than the data folder: predict again")
    return [
        PseudoLabelledVolume(
            **{field.name: getattr(volume, field.name) for field in dataclasses.fields(volume)},
            levels=kept[volume.name].levels,
            threshold=threshold,
        )
        if volume.name in kept
        else volume
        for volume in volumes
    ]


def save_probability(
    probability_dir: Path | str, volume: Volume, probabilities: Iterable[tuple[str, Map]]
) -> Iterator[tuple[str, Map]]:
    """Passes a kidney's probabilities on and keeps them, as `<kidney>.npy` and `<kidney>.json` (the slice ids).

    The files appear when the last slice has been taken.

    Args:
        probability_dir: made if missing.
        volume: the kidney.
        probabilities: (slice id, (H, W) float32 in 0..1) of each of its slices.

    Yields:
        What `probabilities` yields.

    Raises:
        InputError: the slices are not all of one size, or the disk has no room for them.
    """
    array_path, ids_path = kept_paths(probability_dir, volume)
    height, width = volume.slice_size(0)
    make_dir(probability_dir)
    with replacing(ids_path) as new_ids_path, replacing(array_path) as new_path:
        new_ids_path.write_text(json.dumps({"slice_ids": volume.slice_ids}), encoding="utf-8")
        levels = open_reserved(new_path, np.dtype(np.uint8), (len(volume), height, width))
        for z, (slice_id, probability) in enumerate(probabilities):
            if probability.shape != (height, width):
                raise InputError(
                    f"{slice_id} is {probability.shape[0]}x{probability.shape[1]} but {volume.slice_ids[0]} is "
                    f"{height}x{width}: to keep probabilities, the slices of a kidney must be of one size"
                )
            np.rint(probability * LEVELS, out=levels[z], casting="unsafe")
            yield slice_id, probability
        levels.flush()


def note_learned(probability_dir: Path | str, volumes: Sequence[Volume], learned: Mapping[str, str]) -> None:
    """Adds to kept probabilities which slices the model has learned from.

    Args:
        probability_dir: of `save_probability`.
        volumes: the kidneys.
        learned: by slice id, the slice that was learned from (see `identity.warn_of_learned`).
    """
    for volume in volumes:
        _, ids_path = kept_paths(probability_dir, volume)
        theirs = {slice_id: learned[slice_id] for slice_id in volume.slice_ids if slice_id in learned}
        write_whole(ids_path, json.dumps({"slice_ids": volume.slice_ids, "learned": theirs}).encode())


def check_room(probability_dir: Path | str, volumes: Sequence[Volume]) -> None:
    """Checks before the work that the probabilities of kidneys can be kept.

    Raises:
        InputError: as `check_output_dir`, or a disk without room for all of them.
    """
    folder = Path(probability_dir)
    check_output_dir(folder, (path.name for volume in volumes for path in kept_paths(folder, volume)))
    existing = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    needed = sum(len(volume) * math.prod(volume.slice_size(0)) for volume in volumes)
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"save_probability needs {format_size(needed)} and {folder} has {format_size(free)} free: make room there, "
            f"or choose another folder"
        )


def kept_paths(probability_dir: Path | str, volume: Volume) -> tuple[Path, Path]:
    """Where a kidney's probabilities are kept, and the ids of its slices."""
    return Path(probability_dir) / f"{volume.name}.npy", Path(probability_dir) / f"{volume.name}.json"


def open_probabilities(probability_dir: Path | str) -> list[ProbabilityVolume]:
    """Opens what `save_probability` kept, without reading it.

    Returns:
        The kidneys in ascending order of name.

    Raises:
        InputError: the folder is missing or has none, or a file is damaged.
    """
    paths = sorted(path for path in Path(probability_dir).glob("*.npy") if not path.name.startswith("."))
    if not paths:
        raise InputError(f"{probability_dir} has no probabilities: make some with predict --save-probability")
    return [_open(path) for path in paths]


def _open(path: Path) -> ProbabilityVolume:
    try:
        levels = np.load(path, mmap_mode="r", allow_pickle=False)
        fields = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        slice_ids, learned = fields["slice_ids"], dict(fields.get("learned", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as probabilities ({error}): predict again") from error
    if levels.dtype != np.uint8 or levels.ndim != 3 or len(levels) != len(slice_ids):
        raise InputError(
            f"{path} is not a probability volume: expected {len(slice_ids)} slices of uint8, "
            f"found {levels.dtype} {levels.shape}"
        )
    return ProbabilityVolume(path.stem, slice_ids, levels, learned)
