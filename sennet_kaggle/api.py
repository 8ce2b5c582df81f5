"""A volume in memory → its mask: what `predict` does with the slices of a folder, as a function."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

import numpy as np

from .config import DEFAULT_INFERENCE, Inference
from .data.volume import Volume
from .errors import InputError
from .files import shipped_checkpoints
from .inference.loading import load_predictors
from .inference.predict import predict_masks
from .inference.predictor import Predictor
from .models.checkpoint import read_card

# Micrometres, as the competition gives them.
VOXEL_SIZES_UM = {
    "kidney_1_dense": 50.0,
    "kidney_1_voi": 5.2,
    "kidney_2": 50.0,
    "kidney_3_dense": 50.16,
    "kidney_3_sparse": 50.16,
    "kidney_5": 50.28,
    "kidney_6": 63.08,
}
Member = Path | str | Predictor
_ALIKE = 1.05  # voxel sizes of training that may be averaged: the largest over the smallest
_MOST_SCALED = 10


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
    predictors, inference = _prepare(checkpoint, voxel_size_um, inference)
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
    checkpoint: Member | Sequence[Member] | None, voxel_size_um: float | None, inference: Inference
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
        inference = _scaled(inference, voxel_size_um, paths)
    if paths or not predictors:
        predictors += load_predictors(paths, inference)
    return predictors, inference


def _scaled(inference: Inference, voxel_size_um: float, checkpoint_paths: Sequence[Path | str]) -> Inference:
    """The settings with the scale that brings voxels of a size to that of training."""
    if inference.scale != 1 or inference.scales:
        raise InputError("voxel_size_um and the inference's scale both say how to resize: give one of them")
    trained_um = training_voxel_size(checkpoint_paths)
    if not trained_um / _MOST_SCALED <= voxel_size_um <= trained_um * _MOST_SCALED:
        raise InputError(
            f"voxel_size_um must be a size in micrometres within a factor of {_MOST_SCALED} of the {trained_um:g} that "
            f"the checkpoint was trained at, found {voxel_size_um}"
        )
    return replace(inference, scale=voxel_size_um / trained_um)


def training_voxel_size(checkpoint_paths: Sequence[Path | str]) -> float:
    """The voxel size of the slices that checkpoints learned from, in micrometres.

    Raises:
        InputError: one of them does not say what it learned from, or learned from other kidneys than the
            competition's, or from kidneys of very different voxel sizes.
    """
    sizes = []
    for path in checkpoint_paths:
        card = read_card(path)
        kidneys = {slice_id.rpartition("_")[0] for slice_id in card.trained_on}
        unknown = sorted(kidneys - VOXEL_SIZES_UM.keys())
        if not card.says_what_it_learned or unknown:
            found = unknown[0] if unknown else "nothing"
            raise InputError(
                f"voxel_size_um needs a checkpoint that learned from the competition's kidneys, whose voxel size is "
                f"known; {path} names {found}: give inference=Inference(scale=your voxel size over that of training)"
            )
        sizes += [VOXEL_SIZES_UM[kidney] for kidney in sorted(kidneys)]
    if max(sizes) > _ALIKE * min(sizes):
        raise InputError(
            f"voxel_size_um needs one voxel size of training, found {min(sizes):g} to {max(sizes):g}: give "
            f"inference=Inference(scale=your voxel size over the one you mean)"
        )
    return mean(sizes)
