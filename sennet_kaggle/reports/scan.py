"""A scan and its mask, of any format, as what the report page shows."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from ..config import Inference
from ..errors import InputError
from ..inference.scan_run import note_path
from ..scans.opening import open_mask, open_scan
from ..scans.scan import Scan
from ..submission.rle import rle_encode


@dataclass(frozen=True)
class LabelledScan(Scan):
    """A scan with a mask that is taken for the truth."""

    truth: Scan | None = field(default=None, repr=False)

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,) if self.truth is None else (self.path, self.truth.path)

    def is_labelled(self, z: int) -> bool:
        return self.truth is not None

    def label(self, z: int) -> np.ndarray:
        if self.truth is None:
            raise InputError(f"{self.path} has no label of slice {z}")
        return self.truth[z]


class MaskTexts(Mapping[str, str]):
    """The run-length encodings of a mask by slice id; each is made when it is asked for."""

    def __init__(self, scan: Scan, mask: Scan):
        self._places = {slice_id: z for z, slice_id in enumerate(scan.slice_ids)}
        self._mask = mask

    def __getitem__(self, slice_id: str) -> str:
        return rle_encode(self._mask[self._places[slice_id]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def open_masked_scan(
    scan_path: Path, mask_path: Path, labels_path: Path | None = None, level: str | None = None
) -> tuple[LabelledScan, MaskTexts, list[str]]:
    """Opens a scan with its mask, and with another mask to compare that with where there is one.

    Args:
        scan_path: see `open_scan`.
        mask_path: what `segment` made of it, or any other mask of its shape.
        labels_path: a mask that is taken for the truth.
        level: resolution level of the scan.

    Returns:
        The scan, its masks as text, and sentences for the top of the page.

    Raises:
        InputError: one of them cannot be opened, or they are not of one shape.
    """
    scan, mask = open_scan(scan_path, level), open_mask(mask_path)
    labels = None if labels_path is None else open_mask(labels_path)
    for other in filter(None, (mask, labels)):
        if other.shape != scan.shape:
            raise InputError(
                f"{other.path} is {other.shape} but {scan_path} is {scan.shape}: both must be of one shape"
            )
    shown = LabelledScan(**{each.name: getattr(scan, each.name) for each in fields(Scan)}, truth=labels)
    size = scan.voxel_size_um
    voxels = "of unknown size" if size is None else f"of {' x '.join(f'{each:g}' for each in size)} µm (z, y, x)"
    notes = [f"Scan: {scan_path.name}, voxels {voxels}.", f"Mask: {mask_path.name}, {_made_by(mask_path)}."]
    return shown, MaskTexts(scan, mask), notes


def _made_by(mask_path: Path) -> str:
    """Which models made a mask, and how, as the JSON beside it says."""
    try:
        note = json.loads(note_path(mask_path).read_bytes())
        names = ", ".join(f"{each['file']} ({each['sha256'][:12]})" for each in note["checkpoints"])
        cards = [each["card"] for each in note["checkpoints"]]
        threshold = sum(card["threshold"] for card in cards) / len(cards)
        how = Inference(**note["inference"]).describe(f"{threshold:g}", [card["model"] for card in cards])
        return f"made by {names}; {how}"
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return "of which nothing says what made it"
