"""(image, target) pairs from labelled slices, with random variation in training."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..config import Preprocessing
from ..errors import InputError
from .augment import augment_pair, cut_window, draw_window, vary_light
from .blocks import cut_pair, open_blocks
from .bricks import UNKNOWN
from .cache import CachedSlices, open_cache, read_pair
from .intensity import measure_intensity, slice_to_image
from .neighbours import read_stack
from .padding import find_padding
from .planes import draw_plane
from .splits import check_known, labelled_slices, labelled_zs
from .synthetic_windows import draw_synthetic_window
from .transforms import image_to_tensor, mask_to_target
from .volume import Volume, warn_of_gaps


class SliceDataset(Dataset):
    """Labelled slices as training pairs, read when asked for.

    Args:
        volumes: kidneys; their unlabelled slices are left out, and counted in `unlabelled`.
        preprocessing: the settings of the model.
        exclude: slice ids to leave out.
        only: slice ids to keep; all when None.
        augment: vary each pair at random, by (seed, epoch, index) alone.
        zoom: how much a varied window is enlarged, at least and at most (region windows).
        scales: of single kidneys, by which that is multiplied.
        light: strength of a window's varied contrast, gamma and blur (region windows).
        noise: largest standard deviation of a window's noise (region windows).
        planes: the axes that windows are cut across, such as "zyx" (region windows). Only "z" without `oblique` reads
            the slices' files each time; else they are decoded into `cache_dir` (see `open_bricks`), and what lies
            beyond a kidney is unknown.
        oblique: degrees; half of the windows are turned by up to so much (region windows).
        synthetic: part of the windows that are drawn instead, see `draw_synthetic_window` (region windows).
        seed: of the variation.
        cache_dir: keep the slices there at the model's size (see `open_cache`) instead of reading them anew
            every time; the pairs are the same.

    Raises:
        InputError: no labelled slice is left, an id of `only` or `exclude` is in no volume, a label does
            not fit its image, or as `open_cache`.
    """

    def __init__(
        self,
        volumes: Iterable[Volume],
        preprocessing: Preprocessing,
        *,
        only: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        augment: bool = False,
        zoom: tuple[float, float] = (0.5, 1.5),
        scales: Mapping[str, float] = {},  # noqa: B006 (only read)
        light: float = 1.0,
        noise: float = 0.05,
        planes: str = "z",
        oblique: float = 0.0,
        synthetic: float = 0.0,
        seed: int = 0,
        cache_dir: Path | str | None = None,
    ):
        self.volumes = list(volumes)
        self.preprocessing = preprocessing
        self.augment, self.seed, self.epoch = augment, seed, 0
        self.variation: int | None = None
        """The epoch whose variations are made; the current one when None."""
        self.zoom, self.scales, self.light, self.noise = zoom, scales, light, noise
        self.planes, self.oblique, self.synthetic = planes, oblique, synthetic
        labelled = labelled_slices(self.volumes)
        only, exclude = labelled.keys() if only is None else {*only}, {*exclude}
        check_known(only | exclude, labelled, "a labelled slice")
        self.slices = {slice_id: place for slice_id, place in labelled.items() if slice_id in only - exclude}
        if not self.slices:
            raise InputError(f"no labelled slice is left in {', '.join(volume.name for volume in self.volumes)}")
        self._places = list(self.slices.values())
        used = {volume.name: volume for volume, _ in self._places}.values()
        if any(preprocessing.offsets):
            for volume in used:
                warn_of_gaps(volume, "training with offsets")
        # Windows are cut anew each time, and neighbours need not be labelled: only whole slices are worth keeping.
        cached = preprocessing.region == "whole" and not any(preprocessing.offsets) and not self.is_partly_annotated
        self._rows = _open_rows(cache_dir, used, preprocessing) if cached and cache_dir is not None else {}
        self._intensity = {}
        if not self._rows:
            for volume, z in self._places:
                volume.label_path(z)  # a pair that does not fit is found now, not in the middle of an epoch
            self._intensity = {volume.name: measure_intensity(volume, preprocessing) for volume in used}
        self._blocks = {}
        if planes != "z" or oblique:
            if cache_dir is None:
                raise ValueError("planes across slices need a cache_dir, got None")
            self._blocks = open_blocks(cache_dir, self.slices, preprocessing.offsets)

    @property
    def slice_ids(self) -> list[str]:
        """Ids in the order of the indices."""
        return list(self.slices)

    @property
    def unlabelled(self) -> dict[str, int]:
        """How many slices of each kidney are left out because they have no label."""
        return {volume.name: len(volume) - len(labelled_zs(volume)) for volume in self.volumes}

    def vessel_fraction(self) -> float:
        """The part of all target pixels that is vessel, without variation and padding; reads every slice."""
        vessel = scanned = 0.0
        for index, (volume, z) in enumerate(self._places):
            counts = self._counts(index)
            for k, (mask, at) in enumerate(zip(self._pair(index)[1], self._target_zs(volume, z), strict=True)):
                if mask is not None and at is not None:
                    vessel += mask.mean() if counts is None else (mask & counts[k]).mean()
                    scanned += (1 - find_padding(volume[at]).mean()) * (1 if counts is None else counts[k].mean())
        return float(vessel / scanned) if scanned else 0.0

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes a training pair.

        Args:
            index: of a slice; beyond the last it counts on from the first, for other variations of the same.

        Returns:
            Image (C, roi_size, roi_size) float32 and target (K, roi_size, roi_size) float32, one for each of the
            preprocessing's `output_offsets`; NaN where that slice is not one of this set's: without a label, held
            out, of another size, or beyond the volume.
        """
        epoch = self.epoch if self.variation is None else self.variation
        rng = np.random.default_rng((self.seed, epoch, index))
        index %= len(self)
        if self.synthetic and rng.random() < self.synthetic:
            return self._synthetic_window(rng)
        if self._blocks:
            return self._window_in_block(index, rng)
        if self.preprocessing.region == "windows":
            image, masks, counts = self._window(index, rng)
        else:
            image, masks = self._pair(index)
            counts = self._counts(index)
        (blank,) = [np.zeros_like(mask) for mask in masks if mask is not None][:1]
        stack = np.stack([blank if mask is None else mask for mask in masks])  # (K, h, w)
        stack = stack if counts is None else np.concatenate([stack, counts])  # (2 K, h, w)
        if self.augment and self.preprocessing.region == "whole":
            image, stack = augment_pair(image, stack, rng)
        target = torch.cat([mask_to_target(mask, self.preprocessing) for mask in stack])
        if counts is not None:
            target, counted = target.chunk(2)
            target[counted == 0] = torch.nan
        target[[mask is None for mask in masks]] = torch.nan
        return image_to_tensor(image, self.preprocessing), target

    @property
    def is_partly_annotated(self) -> bool:
        """Whether there are labels of which not every pixel counts, so that targets may have NaN."""
        return any(volume.annotated_paths for volume in self.volumes)

    def _target_zs(self, volume: Volume, z: int) -> list[int | None]:
        """The slice that each output is for, among this set's."""
        zs = [z + offset for offset in self.preprocessing.output_offsets]
        return [each if each == z or self._goes_with(volume, each, z) else None for each in zs]

    def _goes_with(self, volume: Volume, other: int, z: int) -> bool:
        inside = 0 <= other < len(volume) and volume.slice_ids[other] in self.slices
        return inside and volume.slice_size(other) == volume.slice_size(z)

    def _window(
        self, index: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[np.ndarray | None], np.ndarray | None]:
        """A window at the slice's own resolution: image (C, h, w) float32, and its part of `_pair` and `_counts`."""
        volume, z = self._places[index]
        target_zs = self._target_zs(volume, z)
        labels = {each: volume.label(each) for each in {z, *target_zs} if each is not None}
        roi_size = self.preprocessing.roi_size
        wanted, annotated = labels[z], volume.annotated(z)
        if annotated is not None:  # half of the windows are laid where there is something to learn from
            wanted = wanted & annotated if (wanted & annotated).any() else annotated
        placement = draw_window(wanted, roi_size, self._zoom_of(volume), rng)
        stack = read_stack(volume, z, self.preprocessing)  # (1 or C, H, W)
        windows = np.stack([cut_window(slice_, placement, roi_size) for slice_ in stack])
        image = slice_to_image(windows, self._intensity[volume.name], self.preprocessing)
        image = vary_light(image, self.light, self.noise, rng) if self.augment else image
        masks = {each: cut_window(label, placement, roi_size) for each, label in labels.items()}
        counts = self._counts(index)
        if counts is not None:
            counts = np.stack([cut_window(each, placement, roi_size) for each in counts])
        return image, [None if each is None else masks[each] for each in target_zs], counts

    def _counts(self, index: int) -> np.ndarray | None:
        """Which pixels of a slice's labels count, (K, h, w) bool as of `mask_to_target`; None where all of them do."""
        volume, z = self._places[index]
        if not self.is_partly_annotated:
            return None
        planes = [None if each is None else volume.annotated(each) for each in self._target_zs(volume, z)]
        whole = [np.ones(volume.slice_size(z), np.bool_) if plane is None else plane for plane in planes]
        return np.stack([mask_to_target(plane, self.preprocessing)[0].numpy() == 1 for plane in whole])

    def _zoom_of(self, volume: Volume) -> tuple[float, float] | None:
        """How much a kidney's windows are enlarged; None leaves them as they are."""
        low, high = self.zoom
        scale = self.scales.get(volume.name, 1.0)
        return (low * scale, high * scale) if self.augment else None

    def _window_in_block(self, index: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A training pair out of the decoded volume; NaN also where the window lies beyond it."""
        volume, z = self._places[index]
        place, roi_size = self._blocks[volume.name, z], self.preprocessing.roi_size
        plane = draw_plane(*place, roi_size, self._zoom_of(volume), self.planes, self.oblique, rng)
        window, label = cut_pair(place.block, plane, self.preprocessing)
        image = slice_to_image(window, self._intensity[volume.name], self.preprocessing)
        image = vary_light(image, self.light, self.noise, rng) if self.augment else image
        target, unknown = torch.from_numpy(label.astype(np.float32)), label == UNKNOWN
        if unknown.any():
            target[torch.from_numpy(unknown)] = torch.nan
        return image_to_tensor(image, self.preprocessing), target

    def _synthetic_window(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A training pair that shows no slice."""
        wanted = self.preprocessing
        offsets, outputs = wanted.offsets if any(wanted.offsets) else (0,), wanted.output_offsets
        planes = tuple(dict.fromkeys((*offsets, *outputs)))
        images, masks = draw_synthetic_window(wanted.roi_size, planes, rng)
        image = images[[planes.index(each) for each in offsets]]
        image = vary_light(image, self.light, self.noise, rng) if self.augment else image
        target = masks[[planes.index(each) for each in outputs]]
        return image_to_tensor(image, wanted), torch.from_numpy(target).float()

    def _pair(self, index: int) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """The whole slice: image (C, h, w) float32 as of `read_pair`, and a mask (h, w) bool per output or None."""
        volume, z = self._places[index]
        if self._rows:
            cached, row = self._rows[volume.name, z]
            image, mask = np.array(cached.images[row])[None], np.array(cached.masks[row])  # torch takes no read-only
        else:
            image, mask = read_pair(volume, z, self._intensity[volume.name], self.preprocessing)
        target_zs = self._target_zs(volume, z)
        others = {each: volume.label(each) for each in {*target_zs} - {z} if each is not None}
        masks = {each: mask_to_target(label, self.preprocessing)[0].numpy() == 1 for each, label in others.items()}
        masks[z] = mask
        return image, [None if each is None else masks[each] for each in target_zs]


def _open_rows(
    cache_dir: Path | str, volumes: Iterable[Volume], preprocessing: Preprocessing
) -> dict[tuple[str, int], tuple[CachedSlices, int]]:
    """Where each slice (kidney, z) lies in its kidney's cache.

    The cache holds every labelled slice of a kidney, also those this data set leaves out: so the held-out
    slices, and another split of the same kidney, find it ready.
    """
    rows: dict[tuple[str, int], tuple[CachedSlices, int]] = {}
    for volume in volumes:
        zs = labelled_zs(volume)
        cached = open_cache(cache_dir, volume, zs, preprocessing)
        rows |= {(volume.name, z): (cached, row) for row, z in enumerate(zs)}
    return rows
