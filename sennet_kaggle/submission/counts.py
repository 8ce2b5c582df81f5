"""A submission → how much vessel it has, per kidney."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..data.volume import Volume
from .rle import parse_runs


class VesselCount(NamedTuple):
    """What the masks of a kidney add up to."""

    kidney: str
    slices: int
    with_vessels: int
    vessel_px: int
    vessel_percent: float
    """Of all its pixels."""

    def __str__(self) -> str:
        slices = f"{self.slices} slice{'s' * (self.slices != 1)}, {self.with_vessels} with vessels"
        return f"{self.kidney}: {slices}, vessel {self.vessel_percent:.3f} % of all pixels"


def count_vessels(volumes: Sequence[Volume], rles: Mapping[str, str]) -> list[VesselCount]:
    """Counts the vessel pixels of kidneys.

    Args:
        volumes: the kidneys; of the images only the sizes are read.
        rles: run-length encodings of all their slices, by slice id.
    """
    counts = []
    for volume in volumes:
        pixels = [_count_pixels(rles[slice_id]) for slice_id in volume.slice_ids]
        area = sum(int(np.prod(volume.slice_size(z))) for z in range(len(volume)))
        with_vessels = sum(each > 0 for each in pixels)
        counts.append(VesselCount(volume.name, len(volume), with_vessels, sum(pixels), 100 * sum(pixels) / area))
    return counts


def _count_pixels(rle: str) -> int:
    starts, ends = parse_runs(rle)
    return int((ends - starts).sum())
