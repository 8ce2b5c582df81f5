"""A volume in memory → its mask: what `predict` does with the slices of a folder, as a function."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .config import DEFAULT_INFERENCE, Inference
from .data.volume import Volume
from .errors import InputError
from .files import shipped_checkpoints
from .inference.loading import load_predictors
from .inference.predict import predict_masks
from .inference.predictor import Predictor
from .models.voxel_size import scaled_to_training, settle_scale

Member = Path | str | Predictor


def segment(
    volume: np.ndarray | Volume,
    checkpoint: Member | Sequence[Member] | None = None,
    *,
    voxel_size_um: float | None = None,
    inference: Inference = DEFAULT_INFERENCE,
) -> np.ndarray:
    """Finds the vessels in a scan.

    The masks are those that `predict` writes for the same slices with the same settings. Grey values are scaled by the
    whole volume's percentiles, so pass a volume at once and not slice by slice.

    `voxel_size_um` resizes the scan, before the model sees it, to the voxel size that the checkpoint was trained at,
    and the answer back: 50 µm for the shipped checkpoint (kidney_1_dense), so that 25 halves the sides of a slice.
    The slices alone are resized, unless `inference` has axes "zyx", which resizes along all three axes; the voxels are
    taken to be cubes. Without it nothing is resized, as in `predict`.

    Args:
        volume: (D, H, W) or a single slice (H, W), uint8 or uint16, a memory map for instance; or what `open_volume`
            gives, whose slices must be of one size.
        checkpoint: a checkpoint file, or several to average; or what `load_predictors` gives, which saves loading
            them for each volume and has settings of its own for device, precision, backend and threshold. The shipped
            checkpoint when not given.
        voxel_size_um: side of the scan's voxels in micrometres.
        inference: how the model is run.

    Returns:
        bool of the volume's shape, True in vessels.

    Raises:
        InputError: an array of another shape or dtype; a checkpoint that cannot be loaded; a voxel size that is not
            positive, is too far from that of training, or comes with a checkpoint of which the latter is not known.
    """
    slices = volume if isinstance(volume, Volume) else _ArrayVolume.of(volume)
    predictors, inference = _prepare(slices.name, checkpoint, voxel_size_um, inference)
    masks = np.empty((len(slices), *slices.slice_size(0)), np.bool_)
    for place, (slice_id, mask) in zip(masks, predict_masks(slices, predictors, inference), strict=True):
        if mask.shape != place.shape:
            raise InputError(f"the slices must be of one size, {place.shape}, found {mask.shape} in {slice_id}")
        place[:] = mask
    return masks if isinstance(volume, Volume) else masks.reshape(volume.shape)


@dataclass(frozen=True)
class _ArrayVolume(Volume):
    """A volume in memory, (D, H, W) uint8 or uint16."""

    array: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.uint16), repr=False)

    @classmethod
    def of(cls, array: np.ndarray) -> "_ArrayVolume":
        """Checks an array (D, H, W) or (H, W) that a caller gives."""
        shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
        if shape is None or len(shape) not in (2, 3) or 0 in shape:
            found = type(array).__name__ if shape is None else f"shape {tuple(shape)}"
            raise InputError(f"volume must be an array (D, H, W) or (H, W) of grey values, found {found}")
        if isinstance(array, np.ma.MaskedArray):
            raise InputError("volume must have a grey value everywhere, found a masked array: give it filled")
        if dtype not in (np.uint8, np.uint16) and dtype != np.dtype(">u2"):
            raise InputError(
                f"volume must hold the scan's own grey values, uint8 or uint16, found {dtype}: give it as it was stored"
            )
        array = array if len(shape) == 3 else array[None]
        # The numbers serve as names only.
        return cls("volume", tuple(Path(f"{z:06d}") for z in range(len(array))), array=array)

    def __getitem__(self, z: int) -> np.ndarray:
        plane = self.array[z]
        return np.ascontiguousarray(plane, plane.dtype.newbyteorder("="))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[z] for z in range(len(self)))

    def slice_size(self, z: int) -> tuple[int, int]:
        _, height, width = self.array.shape
        return height, width


def _prepare(
    name: str, checkpoint: Member | Sequence[Member] | None, voxel_size_um: float | None, inference: Inference
) -> tuple[list[Predictor], Inference]:
    """The members of the ensemble, and how to run them."""
    if checkpoint is None:
        members: list[Member] = [*shipped_checkpoints()]
    else:
        members = [checkpoint] if isinstance(checkpoint, Member) else [*checkpoint]
    predictors = [member for member in members if isinstance(member, Predictor)]
    paths = [member for member in members if not isinstance(member, Predictor)]
    if voxel_size_um is not None:
        if predictors:
            raise InputError(
                "voxel_size_um needs to know what the model learned from, which loaded predictors do not say: give the "
                "checkpoint itself, or inference=Inference(scale=your voxel size over that of training)"
            )
        inference = scaled_to_training(inference, voxel_size_um, paths)
    elif inference.scale == "auto" and paths and not predictors:
        inference = settle_scale(inference, [name], paths)
    if paths or not predictors:
        predictors += load_predictors(paths, inference)
    return predictors, inference
