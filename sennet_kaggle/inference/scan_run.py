"""A scan of any format → a file of its masks, slice by slice; a run that was killed goes on."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import Inference
from ..data.bits import fetch_mask
from ..errors import InputError, warn
from ..files import check_output, format_size, write_whole
from ..models.checkpoint import read_card
from ..models.voxel_size import VOXEL_SIZES_UM, scaled_to_training, training_voxel_size
from ..progress import progress_bar
from ..scans.ome_zarr_writing import image_of
from ..scans.partial import Partial, claim_run, identify_scan
from ..scans.scan import Scan
from ..scans.sources import ChunkedSource
from ..scans.writing import check_scan_output, create_output
from ..submission.provenance import describe_checkpoint, hash_file, hash_package, to_json
from .ensemble import mean_threshold, scales_of
from .loading import load_predictors
from .predict import predict_probabilities

# Measured with benchmarks/scan_memory.py: libraries and a model, and what is held of slices at once, in bytes.
_BASE_BYTES = 800 * 10**6
_BYTES_PER_PIXEL = 420
_ALIKE_IN_PLANE = 1.02


@dataclass(frozen=True)
class ScanRun:
    """One scan, what to make of it, and how."""

    scan: Scan
    output_path: Path
    checkpoint_paths: tuple[Path, ...]
    inference: Inference
    """With the scale that the voxel size asks for."""
    probability: bool = False
    """The output is the probability, 0 to 255, instead of the mask."""

    @property
    def dtype(self) -> np.dtype:
        """Of the output's slices."""
        return np.dtype(np.uint8 if self.probability else np.bool_)

    @property
    def scale(self) -> float:
        """How much the model sees the slices enlarged."""
        return self.inference.scale_of(self.scan.name)

    @property
    def key(self) -> dict[str, Any]:
        """All that the result depends on."""
        settings = dataclasses.asdict(self.inference)
        return {
            "input": identify_scan(self.scan),
            "checkpoints": [hash_file(path) for path in self.checkpoint_paths],
            "settings": {name: value for name, value in settings.items() if name != "scratch_dir"},
            "probability": self.probability,
            "package": hash_package(),
        }


def plan_run(
    scan: Scan,
    output_path: Path,
    checkpoint_paths: Sequence[Path],
    inference: Inference,
    voxel_size_given: bool = False,
    probability: bool = False,
) -> ScanRun:
    """Checks all that can be known before the work, and settles the scale.

    Args:
        scan: with the voxel size that its file or the caller gives.
        output_path: see `create_output`.
        checkpoint_paths: the models, which are averaged.
        inference: how they are run; a scale of its own goes before the voxel size.
        voxel_size_given: whether the caller has named the voxel size, so that it must be of use.
        probability: see `ScanRun`.

    Raises:
        InputError: the scan is a mask, the output cannot be written, or as `scaled_to_training`.
    """
    inference.check()
    if scan.dtype == np.bool_:
        raise InputError(f"{scan.path} must hold grey values, found bool: it is a mask, so name the scan itself")
    _warn_of_missing_chunks(scan)
    for path in checkpoint_paths:
        read_card(path)
    check_scan_output(output_path, scan)
    check_output(note_path(output_path), checkpoint_paths)
    inference = _scaled(scan, inference, checkpoint_paths, voxel_size_given)
    return ScanRun(scan, output_path, tuple(checkpoint_paths), inference, probability)


def describe_run(run: ScanRun) -> str:
    """What is to be done, in three lines: the scan, the scale, and the memory that it takes."""
    depth, height, width = run.scan.shape
    size = run.scan.voxel_size_um
    voxels = "voxels of unknown size" if size is None else f"voxels of {_times(size)} µm (z, y, x)"
    lines = [f"{run.scan.path}: {depth} slices of {height}x{width}, {run.scan.found.source.dtype}, {voxels}"]
    scale = run.scale
    how = "the model sees them as they are" if scale == 1 else f"resized by {scale:.4g} for the model, masks back"
    lines.append(f"scale: {how}")
    lines.append(f"memory: {format_size(peak_bytes(run))} at most, however many slices there are")
    return "\n".join(lines)


def peak_bytes(run: ScanRun) -> int:
    """How much memory a run takes at most: of its slices' size, not of their number."""
    pixels = math.prod(run.scan.shape[1:])
    slabs = 3 * getattr(run.scan.found.source, "depth", 1) * pixels * run.scan.found.source.dtype.itemsize
    scales = scales_of([read_card(path) for path in run.checkpoint_paths], run.inference)
    shown = pixels * max(1, run.scale**2) * sum(scale**2 for scale in scales)
    return int(_BASE_BYTES + _BYTES_PER_PIXEL * shown + slabs)


def segment_scan(run: ScanRun) -> float:
    """Segments a scan behind a progress bar, and writes its masks when all are there.

    Finished slices are kept beside the output, so that the same call goes on where an earlier one was killed.

    Returns:
        The part of all voxels that is vessel; with `probability`, the mean probability.

    Raises:
        InputError: a slice or checkpoint is damaged, or another process makes the same output.
    """
    with claim_run(run.output_path, run.key) as folder:
        partial = Partial(folder, run.scan.shape, run.dtype)
        try:
            total = _segment_missing(run, partial)
            _write(run, partial)
        finally:
            partial.close()
    write_note(run)
    return total


def _segment_missing(run: ScanRun, partial: Partial) -> float:
    depth, missing = len(run.scan), partial.missing
    with progress_bar("segmenting", depth, initial=depth - len(missing)) as progress:
        for z, slice_ in _slices(run, missing):
            partial.put(z, slice_)
            progress.update()
    return sum(float(partial.get(z).mean()) for z in range(depth)) / depth / (255 if run.probability else 1)


def _slices(run: ScanRun, zs: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    if not zs:
        return
    predictors = load_predictors(run.checkpoint_paths, run.inference)
    threshold = mean_threshold(predictors)
    probabilities = predict_probabilities(run.scan, predictors, run.inference, zs)
    for z, (_, probability) in zip(zs, probabilities, strict=True):
        yield z, to_output(probability, threshold, run.inference.hysteresis, run.probability)


def to_output(probability: torch.Tensor, threshold: float, hysteresis: float, as_probability: bool) -> np.ndarray:
    """A slice of the output: (H, W) bool, or uint8 with 255 for certainty."""
    if as_probability:
        return (probability.clamp(0, 1) * 255).round().byte().numpy(force=True)
    return fetch_mask(probability, threshold, hysteresis)


def _write(run: ScanRun, partial: Partial) -> None:
    scan = run.scan
    with create_output(run.output_path, scan.shape, run.dtype, scan.voxel_size_um, scan) as put:
        for z in progress_bar("writing", len(scan), range(len(scan))):
            put(partial.get(z))


def note_path(output_path: Path) -> Path:
    """The JSON beside an output that says what made it; of a label in an OME-Zarr image, beside the image."""
    image = image_of(output_path)
    return image.with_name(f"{image.name}.{output_path.name}.json") if image else Path(f"{output_path}.json")


def write_note(run: ScanRun) -> None:
    """Writes what made an output; another file of that name stays, with a warning."""
    path = note_path(run.output_path)
    if path.exists() and not _is_note(path):
        warn(f"{path} is something else and stays as it is: it will not be known what made {run.output_path}")
        return
    note = {
        "made_by": "segment",
        "output": run.output_path.name,
        "package_sha256": hash_package(),
        "input": {**identify_scan(run.scan), "voxel_size_um": run.scan.voxel_size_um},
        "probability": run.probability,
        "inference": dataclasses.asdict(run.inference),
        "checkpoints": [describe_checkpoint(each, read_card(each)) for each in run.checkpoint_paths],
    }
    write_whole(path, to_json(note))


def _is_note(path: Path) -> bool:
    try:
        return "checkpoints" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _warn_of_missing_chunks(scan: Scan) -> None:
    source = scan.found.source
    missing, chunks = source.missing_chunks() if isinstance(source, ChunkedSource) else (0, 0)
    if missing:
        warn(
            f"{scan.path} has no file for {missing} of its {chunks} chunks, whose voxels are taken for 0: right for "
            f"empty space, wrong if a copy was broken off"
        )


def _scaled(scan: Scan, inference: Inference, checkpoint_paths: Sequence[Path], given: bool) -> Inference:
    """The settings with the scale of the scan's voxel size, where both sizes are known."""
    size = scan.voxel_size_um
    if size is None and inference.scale == "auto" and scan.name in VOXEL_SIZES_UM:
        size = (VOXEL_SIZES_UM[scan.name],) * 3
    if inference.scale not in (1, "auto") or inference.scales:
        if given:
            raise InputError("voxel_size_um and the inference's scale both say how to resize: give one of them")
        return inference
    try:
        trained_um = training_voxel_size(checkpoint_paths)
    except InputError:
        if given:
            raise
        warn("the checkpoint does not say at which voxel size it was trained: the scan is shown to it as it is")
        return replace(inference, scale=1.0)
    if size is None:
        warn(
            f"{scan.path} does not say how large its voxels are: they are taken for the {trained_um:g} µm that the "
            f"checkpoint was trained at; give --voxel-size-um if they are not"
        )
        return replace(inference, scale=1.0)
    z, y, x = size
    if max(y, x) > _ALIKE_IN_PLANE * min(y, x):
        raise InputError(f"voxels must be squares in the slice, found {y:g} x {x:g} µm: resample the scan")
    if inference.axes == "zyx" and max(size) > _ALIKE_IN_PLANE * min(size):
        raise InputError(
            f"axes zyx needs cubes, found voxels of {_times(size)} µm: resample the scan, or choose axes z"
        )
    return scaled_to_training(inference, (y + x) / 2, checkpoint_paths)


def _times(size: Sequence[float]) -> str:
    return " x ".join(f"{each:g}" for each in size)
