"""Scans and corrected masks of any format → kidneys in the competition's layout, which a training run reads.

A kidney of `train/` may have its images and labels as single files or OME-Zarr folders, `images.*` and `labels.*`, in
place of the folders of TIFFs. They are copied into the run's cache once, slice by slice: whatever tells slices, labels
and runs from others then works on these as on all kidneys.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ..config import Training
from ..data.volume import ANNOTATED, Volume, find_folders, is_folder
from ..errors import InputError
from ..files import format_size, make_dir, replacing_dir, write_whole
from ..locking import take_turns
from ..progress import progress_bar
from ..scans.opening import open_mask, open_scan
from ..scans.partial import identify_scan
from ..scans.scan import Scan

_NOTE = "scan.json"
_KINDS = (".tif", ".tiff", ".npy", ".nii", ".nii.gz", ".zarr", ".ome.zarr", ".ome.tif", ".ome.tiff")


def import_scans(training: Training, data_dir: Path | str, cache_dir: Path | str) -> Path:
    """Copies the kidneys of a run that are not in the competition's layout, and masks with a value to leave out.

    Args:
        training: its kidneys, and `not_annotated`.
        data_dir: a folder in the competition's layout, with such kidneys in `train/`.
        cache_dir: gets `scans/`, 3 bytes a voxel.

    Returns:
        A folder in the competition's layout with the run's kidneys; `data_dir` itself where nothing had to be copied.

    Raises:
        InputError: an image or mask cannot be opened, both are not of one shape, no slice is annotated, or the disk
            has no room.
    """
    data_dir = Path(data_dir)
    names = dict.fromkeys((*training.train_volumes, *training.held_out_volumes))
    kidney_dirs = {name: data_dir / "train" / name for name in names}
    foreign = {name: each for name, each in kidney_dirs.items() if _is_foreign(each, training.not_annotated)}
    if not foreign:
        return data_dir
    scans = {name: _open(each, training.not_annotated) for name, each in foreign.items()}
    keys = {name: _key(*scans[name], training.not_annotated) for name in foreign}
    plain = {name: str(each.absolute()) for name, each in kidney_dirs.items() if name not in foreign}
    whole = hashlib.blake2b(json.dumps([keys, plain], sort_keys=True).encode(), digest_size=8).hexdigest()
    root = Path(cache_dir) / "scans"
    with take_turns(root / ".lock"):  # of several processes one copies, and the others wait
        for name, key in keys.items():
            if not (root / key).is_dir():
                _copy(root / key, name, *scans[name], training.not_annotated)
        view = make_dir(root / whole / "train")
        targets = plain | {name: str((root / key / name).absolute()) for name, key in keys.items()}
        for name, target in targets.items():
            if not (view / name).exists():
                os.symlink(target, view / name, target_is_directory=True)
    return view.parent


def voxel_size_of(volumes: list[Volume]) -> float | None:
    """The voxel size of kidneys that were copied, in micrometres; None where one is of another origin or unknown."""
    sizes = []
    for volume in volumes:
        path = volume.image_paths[0].parent.parent / _NOTE
        size = json.loads(path.read_bytes())["voxel_size_um"] if path.is_file() else None
        if size is None:
            return None
        sizes.append((size[1] + size[2]) / 2)
    return float(np.mean(sizes)) if sizes and max(sizes) <= 1.05 * min(sizes) else None


def _is_foreign(kidney_dir: Path, not_annotated: int | None) -> bool:
    if not is_folder(kidney_dir):
        return False  # it is missing, which `open_volumes` says
    found = [_find(kidney_dir, name) for name in ("images", "labels")]
    return any(found) or (not_annotated is not None and is_folder(kidney_dir / "labels"))


def _find(kidney_dir: Path, name: str) -> Path | None:
    """The file or OME-Zarr folder of images or labels; None where there is a folder of slices, or nothing.

    Raises:
        InputError: there are two.
    """
    there = [each for each in sorted(kidney_dir.iterdir()) if each.name.lower().removeprefix(name) in _KINDS]
    there = [each for each in there if each.name.lower().startswith(name)]
    if len(there) > 1 or (there and is_folder(kidney_dir / name)):
        also = there[1].name if len(there) > 1 else f"the folder {name}"
        raise InputError(f"{kidney_dir} must have its {name} once, found {there[0].name} and {also}: keep one of them")
    return there[0] if there else None


def _open(kidney_dir: Path, not_annotated: int | None) -> tuple[Scan, Scan]:
    images_path = _find(kidney_dir, "images") or kidney_dir / "images"
    labels_path = _find(kidney_dir, "labels") or kidney_dir / "labels"
    for path in (images_path, labels_path):
        if not path.exists():
            found = ", ".join(each.name for each in find_folders(kidney_dir)) or "nothing"
            raise InputError(f"{kidney_dir} must have images and labels, found no {path.stem} (but {found})")
    scan = open_scan(images_path)
    labels = open_mask(labels_path) if not_annotated is None else open_scan(labels_path)
    stems = {path.stem for path in scan.image_paths}
    if labels.found.stems:  # a folder: slices without a file have no label
        orphans = [path.stem for path in labels.image_paths if path.stem not in stems]
        if orphans:
            raise InputError(f"{labels_path} has labels without a slice in {images_path}, the first {orphans[0]}")
    if labels.shape[1:] != scan.shape[1:] or (not labels.found.stems and len(labels) != len(scan)):
        raise InputError(
            f"{labels_path} is {labels.shape} but {images_path} is {scan.shape}: both must be of one shape"
        )
    return scan, labels


def _copy(folder: Path, name: str, scan: Scan, labels: Scan, not_annotated: int | None) -> None:
    """Writes a kidney: images, labels of the slices that have one, and which of their pixels count."""
    needed, free = 3 * int(np.prod(scan.shape, dtype=np.int64)), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"{folder.parent} has {format_size(free)} free but {name} needs {format_size(needed)}: make room"
        )
    labelled = 0
    with replacing_dir(folder) as temporary_dir:
        kidney_dir = temporary_dir / name
        for kind in ("images", "labels"):
            make_dir(kidney_dir / kind)
        for path, slice_ in progress_bar(f"copying {name}", len(scan), zip(scan.image_paths, scan, strict=True)):
            tifffile.imwrite(kidney_dir / "images" / f"{path.stem}.tif", slice_)
        for stem, mask, annotated in _labelled(scan, labels, not_annotated):
            labelled += 1
            tifffile.imwrite(kidney_dir / "labels" / f"{stem}.tif", mask.astype(np.uint8) * 255, compression="zlib")
            if annotated is not None:
                path = make_dir(kidney_dir / ANNOTATED) / f"{stem}.tif"
                tifffile.imwrite(path, annotated.astype(np.uint8) * 255, compression="zlib")
        if not labelled:
            raise InputError(f"{labels.path} must have at least one annotated slice, found {not_annotated} everywhere")
        note = {"voxel_size_um": scan.voxel_size_um, "images": str(scan.path), "labels": str(labels.path)}
        write_whole(kidney_dir / _NOTE, json.dumps(note).encode())


def _labelled(
    scan: Scan, labels: Scan, not_annotated: int | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Stem, mask (H, W) bool, and which of its pixels count where not all of them do, of the slices with a label."""
    for z, path in enumerate(labels.image_paths):
        stem = path.stem if labels.found.stems else scan.image_paths[z].stem
        if not_annotated is None:
            yield stem, labels[z], None
            continue
        stored = labels.stored(z)
        annotated = stored != not_annotated
        if annotated.any():
            yield stem, annotated & (stored != 0), None if annotated.all() else annotated


def _key(scan: Scan, labels: Scan, not_annotated: int | None) -> str:
    facts: list[Any] = [identify_scan(scan), identify_scan(labels), not_annotated, scan.voxel_size_um]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
