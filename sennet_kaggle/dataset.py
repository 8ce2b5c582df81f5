"""(image, target) pairs from labelled slices, with random variation in training."""

from collections.abc import Iterable

import numpy as np
import torch
from torch.utils.data import Dataset

from .config import Preprocessing
from .errors import InputError
from .transforms import image_to_tensor, mask_to_target, measure_intensity, slice_to_image
from .volume import Volume

_ZOOM = (0.6, 1.4)
_GAIN = (0.75, 1.25)
_OFFSET = 0.1


class SliceDataset(Dataset):
    """Labelled slices as training pairs, read when asked for.

    Args:
        volumes: kidneys; their unlabelled slices are left out.
        preprocessing: the settings of the model.
        exclude: slice ids to leave out.
        only: slice ids to keep; all when None.
        augment: vary each pair at random, by (seed, epoch, index) alone.
        seed: of the variation.

    Raises:
        InputError: no labelled slice is left, an id of `only` or `exclude` is in no volume, or a label does
            not fit its image.
    """

    def __init__(
        self,
        volumes: Iterable[Volume],
        preprocessing: Preprocessing,
        *,
        only: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        augment: bool = False,
        seed: int = 0,
    ):
        self.volumes = list(volumes)
        self.preprocessing = preprocessing
        self.augment, self.seed, self.epoch = augment, seed, 0
        labelled = {
            slice_id: (volume, z)
            for volume in self.volumes
            for z, slice_id in enumerate(volume.slice_ids)
            if volume.is_labelled(z)
        }
        unknown = sorted(({*exclude} | {*(only or ())}) - labelled.keys())
        if unknown:
            raise InputError(f"{unknown[0]} is not a labelled slice: expected one of {', '.join(labelled)}")
        keep = (labelled.keys() if only is None else {*only}) - {*exclude}
        self.slices = {slice_id: place for slice_id, place in labelled.items() if slice_id in keep}
        if not self.slices:
            raise InputError(f"no labelled slice is left in {', '.join(volume.name for volume in self.volumes)}")
        self._places = list(self.slices.values())
        for volume, z in self._places:
            volume.label_path(z)  # a pair that does not fit is found now, not in the middle of an epoch
        self._intensity = {volume.name: measure_intensity(volume, preprocessing) for volume in self.volumes}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns image (C, roi_size, roi_size) float32 and target (1, roi_size, roi_size) float32."""
        volume, z = self._places[index]
        image = slice_to_image(volume[z], self._intensity[volume.name], self.preprocessing)
        mask = volume.label(z)
        if self.augment:
            image, mask = augment_pair(image, mask, np.random.default_rng((self.seed, self.epoch, index)))
        return image_to_tensor(image, self.preprocessing), mask_to_target(mask, self.preprocessing)


def augment_pair(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Varies a slice: a window of another size and aspect, flips, quarter turns, contrast.

    Kidneys are resized to one square from unlike sizes, so scale and aspect at the model's input differ
    more between kidneys than within one; the window has its own zoom on either axis for that.

    Args:
        image: (H, W) float32.
        mask: (H, W) bool.

    Returns:
        An image and a mask of one size that is not (H, W).
    """
    height, width = image.shape
    rows = _random_window(height, rng.uniform(*_ZOOM), rng)
    columns = _random_window(width, rng.uniform(*_ZOOM), rng)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    image, mask = image[np.ix_(rows, columns)], mask[np.ix_(rows, columns)] & inside
    turns, flip = rng.integers(4), rng.integers(2)
    image, mask = (np.rot90(array[:, ::-1] if flip else array, turns) for array in (image, mask))
    image = image * np.float32(rng.uniform(*_GAIN)) + np.float32(rng.uniform(-_OFFSET, _OFFSET))
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def _random_window(length: int, zoom: float, rng: np.random.Generator) -> np.ndarray:
    """Indices of a window of length/zoom somewhere in (zoom > 1) or around (zoom < 1) an axis."""
    window = max(1, round(length / zoom))
    first = rng.integers(min(0, length - window), max(0, length - window), endpoint=True)
    return np.arange(first, first + window)
