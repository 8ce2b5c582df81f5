"""The data of a training run: which slices are learned from, which are held out, and what is in them."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Training
from ..data.blocks import check_planes
from ..data.cache import file_digests
from ..data.dataset import SliceDataset
from ..data.padding import sampled_zs
from ..data.splits import labelled_slices, split_slices
from ..data.volume import Volume, open_volumes
from ..errors import InputError
from ..files import file_digest
from ..inference.probability import PseudoLabelledVolume, add_pseudo_labels

_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")
_KINDS = {"learned": "learned from", "held_out": "held out"}
_MOST_SHOWN = 8  # held-out slices that are named


class TrainingData(NamedTuple):
    """Kidneys opened, nothing read."""

    volumes: list[Volume]
    """With pseudo-labels, where there are some."""
    plain: list[Volume]
    """Without."""
    learned: list[str]
    """Ids of the slices to learn from."""
    held_out: list[str]

    def places(self, slice_ids: Iterable[str]) -> dict[str, tuple[Volume, int]]:
        """Volume and z of labelled slices, by slice id."""
        labelled = labelled_slices(self.plain)
        return {slice_id: labelled[slice_id] for slice_id in slice_ids}


def open_data(training: Training, data_dir: Path | str) -> TrainingData:
    """Opens the kidneys of a run and splits their labelled slices.

    Raises:
        InputError: a kidney, slice id or pseudo-label that is not there, or nothing left to learn from.
    """
    names = (*training.train_volumes, *training.held_out_volumes)
    volumes = open_volumes(data_dir, "train", tuple(dict.fromkeys(names)))
    learned, held_out = split_slices(
        volumes,
        held_out_volumes=training.held_out_volumes,
        held_out_slices=training.held_out_slices,
        held_out_fraction=training.held_out_fraction,
        seed=training.seed,
    )
    labelled = labelled_slices(volumes)
    check_planes({slice_id: labelled[slice_id] for slice_id in learned}, training.planes, training.oblique)
    completed = volumes
    if training.pseudo_label_dir is not None:
        completed = add_pseudo_labels(volumes, training.pseudo_label_dir, training.pseudo_label_threshold)
    return TrainingData(completed, volumes, learned, held_out)


def make_sets(
    training: Training, data: TrainingData, cache_dir: Path | str | None = None
) -> tuple[SliceDataset, SliceDataset | None]:
    """The slices to learn from, varied at random, and those held out (None where there are none)."""
    held_out_set = SliceDataset(data.plain, training.preprocessing, only=data.held_out) if data.held_out else None
    roi_size = training.window_size or training.preprocessing.roi_size
    train_set = SliceDataset(
        data.volumes,
        dataclasses.replace(training.preprocessing, roi_size=roi_size),
        only=data.learned,
        augment=training.augment,
        zoom=training.zoom,
        scales=training.scales,
        light=training.light,
        noise=training.noise,
        planes=training.planes,
        oblique=training.oblique,
        synthetic=training.synthetic,
        seed=training.seed,
        # The cache of whole slices knows the labels' files only.
        cache_dir=None if training.pseudo_label_dir and not training.cuts_planes else cache_dir,
    )
    return train_set, held_out_set


def split(
    training: Training, data_dir: Path | str, cache_dir: Path | str | None = None
) -> tuple[SliceDataset, SliceDataset | None]:
    """As `open_data` and `make_sets`."""
    return make_sets(training, open_data(training, data_dir), cache_dir)


def digest_data(training: Training, data: TrainingData) -> dict[str, Any]:
    """The content of all that a run reads, to tell whether a later call is given the same.

    Every file is read once by a process, for this and for the cache's name.

    Returns:
        learned and held_out: a hash of image, label and pseudo-label by slice id; around: by kidney, a hash of the
        other slices that the model sees (neighbours, and those that the grey values are measured on); weights: a
        hash of the file that the training starts from, or None. All of it goes into JSON.

    Raises:
        InputError: as `Volume.label_path`.
    """
    slices, around, learned = {}, {}, {*data.learned}
    for volume in data.volumes:
        labelled = [z for z in range(len(volume)) if volume.is_labelled(z)]
        images = dict(zip(labelled, file_digests([volume.image_paths[z] for z in labelled]), strict=True))
        labels = file_digests([volume.label_path(z) for z in labelled])
        for z, label in zip(labelled, labels, strict=True):
            slice_id, annotated = volume.slice_ids[z], volume.annotated_paths.get(volume.image_paths[z].stem)
            label += b"" if annotated is None else file_digest(annotated)
            pseudo_label = b""
            if isinstance(volume, PseudoLabelledVolume) and slice_id in learned:
                pseudo_label = volume.levels[z].tobytes()
            slices[slice_id] = _short(images[z], label, pseudo_label)
        others = _seen_beside(volume, labelled, training)
        files = file_digests([volume.image_paths[z] for z in others])
        around[volume.name] = _short(*(volume.slice_ids[z].encode() for z in others), *files, str(len(volume)).encode())
    return {
        "learned": {slice_id: slices[slice_id] for slice_id in data.learned},
        "held_out": {slice_id: slices[slice_id] for slice_id in data.held_out},
        "around": around,
        "weights": _digest_weights(training),
    }


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Says how two results of `digest_data` differ, such as "learned from 8 slices, now from 9: k_0008 is new"."""
    role_before, role_now = ({slice_id: kind for kind in _KINDS for slice_id in data[kind]} for data in (before, now))
    for kind, text in _KINDS.items():
        was, is_ = before[kind], now[kind]
        for slice_id in sorted(was.keys() ^ is_.keys()):
            what = (
                f"{slice_id} was {_KINDS[role_before[slice_id]]} and is {_KINDS[role_now[slice_id]]}"
                if slice_id in role_before and slice_id in role_now
                else f"{slice_id} is {'new' if slice_id in is_ else 'gone'}"
            )
            return f"{text} {len(was)} slices, now {len(is_)}: {what}"
        changed = [slice_id for slice_id in was if was[slice_id] != is_[slice_id]]
        if changed:
            more = f" (and of {len(changed) - 1} more)" if len(changed) > 1 else ""
            return f"the image or label of {changed[0]}{more} is not the one that was {text}"
    for name in before["around"]:
        if before["around"][name] != now["around"].get(name):
            return f"{name} has other slices around those with a label"
    if before["weights"] != now["weights"]:
        return "the weights it starts from are not those it started from"
    return None


def _seen_beside(volume: Volume, labelled: list[int], training: Training) -> list[int]:
    """Slices without a label that still have a say."""
    beside = {z + offset for z in labelled for offset in training.preprocessing.offsets}
    if training.preprocessing.intensity == "percentile":
        beside |= {*sampled_zs(volume)}
    return sorted((beside & {*range(len(volume))}) - {*labelled})


def _digest_weights(training: Training) -> str | None:
    given = training.weights_path or training.init_from
    if given is None:
        return None
    path = Path(given)
    if not path.exists():
        raise InputError(f"weights {path} are missing: give a local file or folder, nothing is downloaded")
    paths = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.suffix in _WEIGHTS)
    return _short(*file_digests(paths))


def _short(*parts: bytes) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        whole.update(hashlib.blake2b(part).digest())
    return whole.hexdigest()


def describe_sets(train_set: SliceDataset, held_out: SliceDataset | None) -> str:
    """How many slices are learned from and held out, and which are left out, on one line."""
    parts = [f"{len(train_set)} slices to learn from"]
    shown = [*held_out.slices][:_MOST_SHOWN] if held_out else []
    more = f" and {len(held_out) - len(shown)} more" if held_out and len(held_out) > len(shown) else ""
    parts += [f"{len(held_out)} held out ({', '.join(shown)}{more})"] if held_out else ["none held out"]
    parts += [f"{count} unlabelled in {name} left out" for name, count in train_set.unlabelled.items() if count]
    return ", ".join(parts)
