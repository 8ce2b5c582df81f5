"""Where a submission comes from: package, checkpoints, versions, machine, settings and timings, printed and as JSON."""

import dataclasses
import hashlib
import json
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import torch

from ..config import Inference
from ..data.volume import Volume, kidney_dir_of, open_labels, open_volume
from ..errors import InputError, one_line, warn
from ..files import PACKAGE_DIR, write_whole
from ..models.checkpoint import Card, card_from_fields, read_card
from ..models.identity import warn_of_learned, warn_of_learned_names
from .submission import read_submission

_PACKAGES = ("torch", "numpy", "tifffile", "safetensors", "timm", "transformers")


class Stopwatch:
    """Seconds per stage of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a block, also one that fails."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0) + time.monotonic() - started, 2)


def hash_package(package_dir: Path = PACKAGE_DIR) -> str:
    """The sha256 over the names and contents of a package's modules, in ascending order of name; by default of this."""
    digest = hashlib.sha256()
    for path in sorted(package_dir.rglob("*.py")):
        digest.update(f"{path.relative_to(package_dir).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def describe_checkpoint(path: Path, card: Card) -> dict[str, Any]:
    """A checkpoint's name, hash and card."""
    return {"file": path.name, "sha256": hash_file(path), "card": dataclasses.asdict(card)}


def hash_file(path: Path) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name_checkpoint(path: Path) -> str:
    """A checkpoint's name with as much of its hash as tells it from others."""
    return f"{path.name} ({hash_file(path)[:12]})"


@dataclass(frozen=True)
class Origin:
    """What the JSON beside a submission says of it."""

    made_by: str
    """The command: predict, report, or notebook."""
    package_sha256: str
    checkpoints: dict[str, str]
    """File names by hash."""
    cards: list[Card]
    inference: Inference
    images: dict[str, str]
    """What `stamp_images` gave for the kidneys when they were segmented; empty where it was not recorded."""
    dropped: list[str]
    """What there was no time for."""
    devices: dict[str, str]
    """What the models ran on: the device's name, by how torch calls it; empty where it was not recorded."""
    seconds: dict[str, float]
    """By stage of the run; empty where it was not recorded."""

    @property
    def precision(self) -> str:
        """The arithmetic of the forward pass."""
        return precision_on(self.inference, self.devices)

    def describe(self) -> str:
        """Checkpoints and settings on one line."""
        names = ", ".join(f"{name} ({sha256[:12]})" for sha256, name in self.checkpoints.items())
        return f"by {names}; {self.settings()}"

    def settings(self) -> str:
        """How the models were run."""
        thresholds = [card.threshold for card in self.cards]
        models = [card.model for card in self.cards]
        how = self.inference.describe(f"{sum(thresholds) / max(len(thresholds), 1):g}", models)
        return how + f"; dropped for lack of time: {'; '.join(self.dropped)}" * bool(self.dropped)


def write_origin(
    submission_path: Path,
    made_by: str,
    checkpoint_paths: Sequence[Path | str],
    inference: Inference,
    images: Mapping[str, str],
    devices: Sequence[torch.device] = (),
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Writes what made a submission as JSON beside it; what stands there and is something else stays, with a warning.

    It has the fields of the notebook's record.

    Args:
        submission_path: the complete csv.
        made_by: the command.
        checkpoint_paths: the models.
        inference: how they were run.
        images: see `Origin`.
        devices: what the models ran on.
        seconds: by stage of the run.

    Returns:
        What was written, or would have been.
    """
    path = submission_path.with_suffix(".json")
    origin = {
        "made_by": made_by,
        "package_sha256": hash_package(),
        "submission_sha256": hash_file(submission_path),
        "settings": {"inference": dataclasses.asdict(inference)},
        "checkpoints": [describe_checkpoint(Path(each), read_card(each)) for each in checkpoint_paths],
        "images": dict(images),
        **describe_machine(devices),
        "seconds": dict(seconds or {}),
    }
    try:
        if path == submission_path or (path.exists() and "checkpoints" not in _read_object(path)):
            warn(f"{path} is something else and stays as it is: it will not be known what made {submission_path}")
            return origin
        write_whole(path, to_json(origin))
    except (InputError, OSError) as error:  # such as a name that is longer by the suffix than a name may be
        warn(f"{path} cannot be written ({one_line(error)}): it will not be known what made {submission_path}")
    return origin


def read_origin(submission_path: Path) -> Origin | None:
    """Reads what made a submission; None where no JSON beside it says so, or one that is of another csv."""
    fields = _read_object(submission_path.with_suffix(".json"))
    if not submission_path.is_file() or fields.get("submission_sha256") not in (None, hash_file(submission_path)):
        return None
    try:
        origin = Origin(
            made_by=fields.get("made_by", "notebook"),
            package_sha256=fields["package_sha256"],
            checkpoints={each["sha256"]: each["file"] for each in fields["checkpoints"]},
            cards=[card_from_fields(each["card"]) for each in fields["checkpoints"]],
            inference=Inference(**(fields.get("inference") or fields["settings"]["inference"])),
            images=dict(fields.get("images", {})),
            dropped=list(map(str, fields.get("dropped", []))),
            devices={str(device): str(name) for device, name in dict(fields.get("devices", {})).items()},
            seconds={str(stage): float(took) for stage, took in dict(fields.get("seconds", {})).items()},
        )
        origin.inference.check()
        return origin
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def stamp_images(volume: Volume) -> str:
    """Tells when a kidney's images are no longer the same files, by their names, sizes and times."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in volume.image_paths]
    return hashlib.blake2b(json.dumps(stats).encode(), digest_size=8).hexdigest()


def warn_of_learned_volumes(
    checkpoint_paths: Sequence[Path | str], volumes: Sequence[Volume], data_dir: Path | str | None
) -> Mapping[str, str]:
    """Says in a line that slices of kidneys were learned from by checkpoints that segment them, and returns these."""
    places = {each: (volume, z) for volume in volumes for z, each in enumerate(volume.slice_ids)}
    return warn_of_learned([read_card(path) for path in checkpoint_paths], places, data_dir)


def warn_if_learned(submission_path: Path, labels_path: Path) -> None:
    """Says in a line that the slices of a submission were learned from, where the JSON beside it tells by which model.

    Args:
        submission_path: the csv that is scored.
        labels_path: what it is scored against; images beside the labels are compared by content, else names are.
    """
    origin = read_origin(submission_path)
    if origin is None:
        return
    slice_ids = [slice_id for slice_id, _ in read_submission(submission_path)]
    places = _labelled_places(labels_path) if labels_path.is_dir() else {}
    scored = {slice_id: places[slice_id] for slice_id in slice_ids if slice_id in places}
    if scored:
        warn_of_learned(origin.cards, scored, labels_path)
    else:
        warn_of_learned_names(origin.cards, slice_ids)


def _labelled_places(labels_path: Path) -> dict[str, tuple[Volume, int]]:
    """The labelled slices that have images there as well."""
    places: dict[str, tuple[Volume, int]] = {}
    for kidney_dir in sorted(set(map(kidney_dir_of, open_labels(labels_path).values()))):
        with suppress(InputError):  # labels without images, which can be scored all the same
            volume = open_volume(kidney_dir)
            places |= {each: (volume, z) for z, each in enumerate(volume.slice_ids) if volume.is_labelled(z)}
    return places


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is none."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def describe_machine(devices: Sequence[torch.device]) -> dict[str, Any]:
    """Versions, and what the models run on."""
    versions = {"python": platform.python_version(), "cuda": torch.version.cuda, "opencv": cv2.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    names = {str(d): torch.cuda.get_device_name(d) if d.type == "cuda" else platform.machine() for d in devices}
    return {"versions": versions, "devices": names, "system": platform.platform()}


def to_json(provenance: dict[str, Any]) -> bytes:
    """What a run says about itself, as the file beside its submission."""
    return (json.dumps(provenance, indent=1, default=str) + "\n").encode()


def precision_on(inference: Inference, devices: Iterable[str]) -> str:
    """The arithmetic of the forward pass that a setting comes to on devices."""
    if inference.precision != "auto":
        return inference.precision
    return "float16" if any(device.startswith("cuda") for device in devices) else "float32"


def format_provenance(provenance: Mapping[str, Any]) -> str:
    """The same for the log, in a few lines of words; the JSON has it in full."""
    inference = Inference(**provenance["settings"]["inference"])
    checkpoints, devices, versions = (provenance[name] for name in ("checkpoints", "devices", "versions"))
    cards = [each["card"] for each in checkpoints]
    threshold = f"{sum(card['threshold'] for card in cards) / max(len(cards), 1):g}"
    precision = precision_on(inference, devices)
    lines = [f"package: sha256 {provenance['package_sha256'][:12]}"]
    for checkpoint, card in zip(checkpoints, cards, strict=True):
        name = f"{checkpoint['file']} ({checkpoint['sha256'][:12]})"
        lines.append(f"model: {name}, {card['model']}, its threshold {card['threshold']:g}")
    lines += [
        f"device: {', '.join(f'{device} ({name})' for device, name in devices.items())}, {precision}",
        f"versions: Python {versions['python']}, torch {versions['torch']}",
        f"settings: {inference.describe(threshold, [card['model'] for card in cards])}",
    ]
    return "\n".join(lines)
