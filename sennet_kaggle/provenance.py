"""Where a submission comes from: package, checkpoints, versions, machine, settings and timings, printed and as JSON."""

import dataclasses
import hashlib
import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import torch

from .checkpoint import Card

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


def hash_package(package_dir: Path) -> str:
    """The sha256 over the names and contents of a package's modules, in ascending order of name."""
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


def format_provenance(provenance: dict[str, Any]) -> str:
    """The same for the log: a line per entry, what the JSON has in full as far as it fits."""
    lines = []
    for name, value in provenance.items():
        for entry in value if isinstance(value, list) else [value]:
            text = entry if isinstance(entry, str) else json.dumps(entry, default=str)
            lines.append(f"{name + ':':<12} {text[:700]}{' …' if len(text) > 700 else ''}")
    return "\n".join(lines)
