"""A kidney folder as slices: exact grey values, labels paired by file name, nothing read before it is asked for."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..checks import check_distinct
from ..errors import InputError, warn
from ..files import file_digest
from .names import consecutive_runs, natural_key
from .tiff import read_grey, read_mask, read_size

_SUFFIXES = (".tif", ".tiff")
# What systems and archives put beside files; whatever begins with a dot is left out as well.
_SYSTEM_NAMES = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
_SHOWN_GAPS = 3
ANNOTATED = "annotated"
"""Beside `images` and `labels`: masks of the pixels of a label that count, where not all of them do."""


@dataclass(frozen=True)
class Volume:
    """One kidney: its slices in ascending order of file name, in which numbers count as numbers.

    Iterating yields the grey slices, each (H, W) uint8 or uint16; `volume[z]` reads one.
    """

    name: str
    image_paths: tuple[Path, ...]
    label_paths: dict[str, Path] = field(default_factory=dict, repr=False)
    """Label file by the stem of its image; slices without an entry are unlabelled."""
    annotated_paths: dict[str, Path] = field(default_factory=dict, repr=False)
    """Likewise, of labels of which not every pixel counts, the mask of those that do."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file of it."""
        return (*self.image_paths, *self.label_paths.values(), *self.annotated_paths.values())

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, z: int) -> np.ndarray:
        return read_grey(self.image_paths[z])

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(read_grey, self.image_paths)

    @cached_property
    def slice_ids(self) -> list[str]:
        """Submission ids, `<kidney>_<stem>`."""
        return [f"{self.name}_{path.stem}" for path in self.image_paths]

    def slice_size(self, z: int) -> tuple[int, int]:
        """(H, W) of slice z, from its header alone."""
        return read_size(self.image_paths[z])

    def is_labelled(self, z: int) -> bool:
        return self.image_paths[z].stem in self.label_paths

    def label(self, z: int) -> np.ndarray:
        """Reads the label of slice z: (H, W) bool.

        Raises:
            InputError: as `label_path`, or the label has more than one value besides 0.
        """
        return read_mask(self.label_path(z))

    def annotated(self, z: int) -> np.ndarray | None:
        """Reads which pixels of the label of slice z count: (H, W) bool; None where all of them do."""
        path = self.annotated_paths.get(self.image_paths[z].stem)
        return None if path is None else read_mask(path, may_be_full=True)

    def label_path(self, z: int) -> Path:
        """Finds the label of slice z and compares its size with the image's, by their headers.

        Raises:
            InputError: the slice has no label, or one of another size, or either file is damaged.
        """
        image_path = self.image_paths[z]
        if image_path.stem not in self.label_paths:
            raise InputError(f"{image_path} has no label of the same name")
        label_path = self.label_paths[image_path.stem]
        image_size, label_size = read_size(image_path), read_size(label_path, label=True)
        if image_size != label_size:
            raise InputError(
                f"{label_path} is {label_size[0]}x{label_size[1]} but its image {image_path} is "
                f"{image_size[0]}x{image_size[1]}: both must be of one size"
            )
        return label_path

    def label_digests(self, zs: Sequence[int]) -> list[bytes]:
        """What tells the labels of labelled slices from other labels, 64 bytes each; raises as `label_path`."""
        return [file_digest(self.label_path(z)) for z in zs]


def open_volume(kidney_dir: Path | str) -> Volume:
    """Opens a kidney folder with `images/*.tif` and, where there are labels, `labels/*.tif`.

    kidney_3_dense has labels only; its images are those of the same names in kidney_3_sparse beside it,
    so a folder `<name>_dense` without images is completed from `<name>_sparse`, its labelled slices only.

    Args:
        kidney_dir: the folder; its name is the kidney's name.

    Raises:
        InputError: no such folder, no slices in it, two slices of one stem, or labels without an image.
    """
    kidney_dir = Path(kidney_dir)
    images_dir, labels_dir = kidney_dir / "images", kidney_dir / "labels"
    labels = _slices_by_stem(labels_dir) if is_folder(labels_dir) else {}
    if not is_folder(images_dir) and kidney_dir.name.endswith("_dense") and labels:
        images_dir = kidney_dir.with_name(kidney_dir.name.removesuffix("_dense") + "_sparse") / "images"
        images = {stem: path for stem, path in _slices_by_stem(images_dir).items() if stem in labels}
    else:
        images = _slices_by_stem(images_dir)
    if not images:
        raise InputError(f"{images_dir} has no slices: expected *.tif files, one per slice")
    orphans = sorted(labels.keys() - images.keys(), key=natural_key)
    if orphans:
        raise InputError(f"{labels_dir} has {len(orphans)} labels without an image, the first {orphans[0]}")
    if any("\udc80" <= letter <= "\udcff" for name in (kidney_dir.name, *images) for letter in name):
        raise InputError(
            f"{ascii(str(kidney_dir))} has names that are not UTF-8, which no csv can hold: rename the kidney or slices"
        )
    annotated = _slices_by_stem(kidney_dir / ANNOTATED) if is_folder(kidney_dir / ANNOTATED) else {}
    return Volume(kidney_dir.name, tuple(images.values()), labels, annotated)


def open_volumes(data_dir: Path | str, split: str, names: tuple[str, ...] = ()) -> list[Volume]:
    """Opens the kidneys under `data_dir/split`, in ascending order of name.

    Args:
        data_dir: a folder in the competition's layout.
        split: "train" or "test".
        names: which kidneys; all that there are when empty. A folder in which there is nothing of a kidney is then
            left out with a warning.

    Raises:
        InputError: the folder, a named kidney or every kidney is missing, or a kidney is named twice.
    """
    check_distinct("kidneys", names)
    split_dir = Path(data_dir) / split
    if not is_folder(split_dir):
        found = _listing(Path(data_dir))
        raise InputError(f"{split_dir} is missing: expected {split}/<kidney>/images/*.tif in {data_dir}, found {found}")
    present = [path.name for path in find_folders(split_dir) if names or _is_kidney(path)]
    missing = [name for name in names if name not in present]
    if missing or not present:
        raise InputError(
            f"{split_dir} has no kidney {missing[0] if missing else 'folder'}: found {_listing(split_dir)}"
        )
    return [open_volume(split_dir / name) for name in (names or present)]


def find_volumes(data_dir: Path | str, names: tuple[str, ...] = ()) -> list[Volume]:
    """Opens the named kidneys, wherever they are, or the whole test set.

    Args:
        data_dir: a folder in the competition's layout.
        names: kidneys of `train/` or, failing that, of `test/`; all of `test/` when empty.

    Raises:
        InputError: as `open_volumes`.
    """
    if not names:
        return open_volumes(data_dir, "test")
    check_distinct("kidneys", names)
    in_train = [is_folder(Path(data_dir) / "train" / name) for name in names]
    return [open_volumes(data_dir, "train" if t else "test", (n,))[0] for n, t in zip(names, in_train, strict=True)]


def open_labels(labels_dir: Path | str) -> dict[str, Path]:
    """Finds the labels of one or more kidneys; no image is needed.

    Args:
        labels_dir: a kidney folder (with `labels/`), a folder of such, or a folder in the competition's
            layout (with `train/`).

    Returns:
        Label file by slice id, kidneys and slices in ascending order.

    Raises:
        InputError: no label is there.
    """
    labels_dir = Path(labels_dir)
    root = labels_dir / "train" if is_folder(labels_dir / "train") else labels_dir
    several = [] if is_folder(root / "labels") or not is_folder(root) else find_folders(root)
    kidney_dirs = [path for path in several or [root] if is_folder(path / "labels")]
    labels = {
        f"{kidney_dir_of(path).name}_{stem}": path
        for kidney_dir in kidney_dirs
        for stem, path in _slices_by_stem(kidney_dir / "labels").items()
    }
    if not labels:
        raise InputError(f"{labels_dir} has no labels: expected <kidney>/labels/*.tif, found {_listing(labels_dir)}")
    return labels


def kidney_dir_of(label_path: Path) -> Path:
    """The kidney folder of a label, under the name that it was found by, link or not."""
    return Path(os.path.abspath(label_path.parent.parent))


def slice_stems(data_dir: Path | str) -> list[tuple[str, str]]:
    """Kidney and stem of every image and label of a folder in the competition's layout; none where it has no split."""
    splits = [Path(data_dir) / split for split in ("train", "test")]
    kidney_dirs = [path for split_dir in filter(is_folder, splits) for path in find_folders(split_dir)]
    kinds = ("images", "labels")
    return [(each.name, path.stem) for each in kidney_dirs for kind in kinds for path in find_slices(each / kind)]


def find_slices(slices_dir: Path) -> list[Path]:
    """The TIFF files of a folder in ascending order of name; none where there is no folder."""
    # A broken link is no folder, and so found: reading it will say that it is missing.
    paths = [
        slices_dir / entry.name
        for entry in (_visible_entries(slices_dir) if is_folder(slices_dir) else ())
        if entry.name.lower().endswith(_SUFFIXES) and not entry.is_dir()
    ]
    return sorted(paths, key=lambda path: (natural_key(path.stem), path.suffix))


def find_folders(parent: Path) -> list[Path]:
    """The folders in a folder in ascending order of name, without those that are hidden or the system's own."""
    names = [entry.name for entry in _visible_entries(parent) if entry.is_dir()]
    return [parent / name for name in sorted(names, key=natural_key)]


def is_folder(path: Path) -> bool:
    """As `Path.is_dir`; raises InputError where it may not be known."""
    try:
        return path.is_dir()
    except OSError as error:
        raise InputError(f"{path} cannot be looked at ({error.strerror}): check its permissions and disk") from error


def warn_of_gaps(volume: Volume, why: str) -> None:
    """Warns where the numbers of a kidney's slices do not count up by 1.

    Args:
        volume: the kidney.
        why: what takes its slices for neighbours.
    """
    runs = consecutive_runs([slice_id.removeprefix(f"{volume.name}_") for slice_id in volume.slice_ids])
    gaps = [f"{before[-1]} and {after[0]}" for before, after in pairwise(runs)]
    if gaps:
        more = f" and {len(gaps) - _SHOWN_GAPS} more" if len(gaps) > _SHOWN_GAPS else ""
        warn(
            f"{volume.name}: its slices are not consecutive (between {', '.join(gaps[:_SHOWN_GAPS])}{more}), "
            f"but {why} takes them for neighbours"
        )


def _slices_by_stem(slices_dir: Path) -> dict[str, Path]:
    if not is_folder(slices_dir):
        raise InputError(f"{slices_dir} is missing: expected a folder of *.tif slices")
    paths = find_slices(slices_dir)
    by_stem = {path.stem: path for path in paths}
    if len(by_stem) < len(paths):
        twin = next(a for a, b in zip(paths, paths[1:], strict=False) if a.stem == b.stem)
        raise InputError(f"{slices_dir} has two slices of the name {twin.stem}: keep one")
    return by_stem


def _visible_entries(folder: Path) -> list[os.DirEntry]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}): check its permissions and disk") from error
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in _SYSTEM_NAMES]


def _is_kidney(folder: Path) -> bool:
    """Whether a folder may be a kidney, however incomplete; of any other it is said that it is left out."""
    inside = [folder, *find_folders(folder)]
    if any(path.name in ("images", "labels") for path in inside[1:]) or any(map(find_slices, inside)):
        return True
    warn(f"{folder} is left out: expected a kidney with images/*.tif in it, found {_listing(folder)}")
    return False


def _listing(folder: Path) -> str:
    """What stands in a folder instead of what was expected."""
    if not is_folder(folder):
        return f"no folder {folder}"
    names = sorted((entry.name for entry in _visible_entries(folder)), key=natural_key)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "it empty"
