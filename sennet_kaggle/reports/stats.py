"""Kidneys → the figures that settings are made of: grey values, mean and std, how rare vessels are."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ..config import Preprocessing
from ..data.intensity import IntensityRange, measure_intensity, slice_to_image
from ..data.padding import find_padding
from ..data.volume import Volume
from ..errors import InputError
from ..progress import Bar, progress_bar
from ..rendering import format_table

_FORMATS = {"low": "{:.1f}", "high": "{:.1f}", "vessel_fraction": "{:.6f}", "pos_weight": "{:.1f}"}
_NO_RANGE = IntensityRange(math.nan, math.nan)


@dataclass
class _KidneyCounts:
    """A volume that counts what is read from it, each slice once."""

    volume: Volume
    progress: Bar
    pixels_of_grey: dict[np.dtype, np.ndarray] = field(default_factory=dict)
    """How many pixels have each grey value, by the dtype of their slices."""
    zs_read: set[int] = field(default_factory=set)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    labelled: int = 0
    labelled_pixels: int = 0
    vessel_pixels: int = 0
    intensity: IntensityRange = _NO_RANGE

    def __len__(self) -> int:
        return len(self.volume)

    def __getitem__(self, z: int) -> np.ndarray:
        slice_ = self.volume[z]
        if z not in self.zs_read:
            self.zs_read.add(z)
            self._count(slice_, self.volume.label(z) if self.volume.is_labelled(z) else None)
        return slice_

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[z] for z in range(len(self)))

    def _count(self, slice_: np.ndarray, mask: np.ndarray | None) -> None:
        greys = np.iinfo(slice_.dtype).max + 1
        scanned = ~find_padding(slice_)
        pixels = self.pixels_of_grey.setdefault(slice_.dtype, np.zeros(greys, np.int64))
        pixels += np.bincount(slice_[scanned], minlength=greys)
        height, width = slice_.shape
        self.sizes.add((height, width))
        if mask is not None:
            self.labelled += 1
            self.labelled_pixels += np.count_nonzero(scanned)
            self.vessel_pixels += np.count_nonzero(mask & scanned)
        self.progress.update()


def measure_stats(volumes: Iterable[Volume], preprocessing: Preprocessing, progress: bool = True) -> pd.DataFrame:
    """Measures kidneys, each slice read once; exact, since grey values are counted, not sampled; padding is left out.

    Args:
        volumes: K kidneys.
        preprocessing: its intensity step is what the mean and std come after.
        progress: show a progress bar.

    Returns:
        K + 1 rows, the last, "all", over the pixels of all kidneys. Columns: kidney; slices, labelled, unlabelled;
        size, such as "1303x912", or "mixed"; grey_min and grey_max; low and high, the grey values that become 0
        and 1 (missing in the last row, each kidney has its own); mean and std of the image's pixels;
        vessel_fraction of the labelled pixels; pos_weight, background pixels per vessel pixel (missing
        without vessels).

    Raises:
        InputError: a slice or label is damaged, a label does not fit its slice, or a kidney is nothing but padding.
    """
    volumes = list(volumes)
    with progress_bar("measuring", sum(map(len, volumes)), shown=progress) as bar:
        kidneys = [_count_kidney(volume, preprocessing, bar) for volume in volumes]
    rows = [_row(kidney.volume.name, [kidney], preprocessing, kidney.intensity) for kidney in kidneys]
    return pd.DataFrame([*rows, _row("all", kidneys, preprocessing, _NO_RANGE)])


def format_stats(table: pd.DataFrame) -> str:
    """The table of `measure_stats` as aligned text, and a line that says how to use it."""
    whole = table.iloc[-1]
    texts = {name: table[name].map(pattern.format, na_action="ignore") for name, pattern in _FORMATS.items()}
    usage = f"mean {whole['mean']:.4f} and std {whole['std']:.4f}, for --mean and --std (once per channel)"
    if not math.isnan(whole["pos_weight"]):
        usage += f"; {whole['pos_weight']:.1f} background pixels per vessel pixel, for loss weighted_bce's pos_weight"
    return f"{format_table(table.assign(**texts))}\n{usage}"


def _count_kidney(volume: Volume, preprocessing: Preprocessing, progress: Bar) -> _KidneyCounts:
    progress.set_postfix_str(volume.name)
    kidney = _KidneyCounts(volume, progress)
    kidney.intensity = measure_intensity(kidney, preprocessing)  # counts the slices it looks at
    for z in range(len(kidney)):
        if z not in kidney.zs_read:
            kidney[z]
    if not any(pixels.any() for pixels in kidney.pixels_of_grey.values()):
        raise InputError(f"{volume.name} must have grey values, found one value alone in each slice: copy it again")
    return kidney


def _row(
    name: str, kidneys: Sequence[_KidneyCounts], preprocessing: Preprocessing, intensity: IntensityRange
) -> dict[str, object]:
    """One row over the pixels of one kidney, or of all."""
    sizes = set.union(*(kidney.sizes for kidney in kidneys))
    greys = [np.flatnonzero(pixels) for kidney in kidneys for pixels in kidney.pixels_of_grey.values()]
    slices, labelled = sum(map(len, kidneys)), sum(kidney.labelled for kidney in kidneys)
    labelled_pixels = sum(kidney.labelled_pixels for kidney in kidneys)
    vessel_pixels = sum(kidney.vessel_pixels for kidney in kidneys)
    mean, std = _mean_and_std(kidneys, preprocessing)
    return {
        "kidney": name,
        "slices": slices,
        "labelled": labelled,
        "unlabelled": slices - labelled,
        "size": "{}x{}".format(*next(iter(sizes))) if len(sizes) == 1 else "mixed",
        "grey_min": min(int(values[0]) for values in greys),
        "grey_max": max(int(values[-1]) for values in greys),
        "low": intensity.low,
        "high": intensity.high,
        "mean": mean,
        "std": std,
        "vessel_fraction": vessel_pixels / labelled_pixels if labelled_pixels else math.nan,
        "pos_weight": (labelled_pixels - vessel_pixels) / vessel_pixels if vessel_pixels else math.nan,
    }


def _mean_and_std(kidneys: Sequence[_KidneyCounts], preprocessing: Preprocessing) -> tuple[float, float]:
    """Of the image values of all pixels: what `slice_to_image` makes of each grey value, as often as it occurs."""
    values, pixels = [], []
    for kidney in kidneys:
        for dtype, pixels_of_grey in kidney.pixels_of_grey.items():
            every_grey = np.arange(len(pixels_of_grey), dtype=dtype)[None]
            values.append(slice_to_image(every_grey, kidney.intensity, preprocessing)[0].astype(np.float64))
            pixels.append(pixels_of_grey)
    values, pixels = np.concatenate(values), np.concatenate(pixels)
    mean = np.average(values, weights=pixels)
    return float(mean), math.sqrt(np.average((values - mean) ** 2, weights=pixels))
