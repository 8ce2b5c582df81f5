"""Test kidneys that can always be read: a damaged slice is replaced by the nearest readable one."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ..data.resizing import resize_slice
from ..data.tiff import read_form, read_grey
from ..data.volume import Volume, find_folders, find_slices
from ..errors import InputError
from .faults import Faults

_EIGHT_TO_SIXTEEN_BITS = 257


@dataclass(frozen=True)
class FaultTolerantVolume(Volume):
    """A volume whose slices can all be read and are of one size and dtype.

    A slice that cannot be read is the nearest that can; one of another size or dtype is made to fit. Each is noted
    as a fault, so that a strict run stops there. Without any sound slice, reading one raises InputError.
    """

    faults: Faults = field(default_factory=lambda: Faults(strict=True), repr=False)
    touched: set[int] = field(default_factory=set, repr=False)
    """Slices that a fault has touched."""
    unreadable: set[int] = field(default_factory=set, repr=False)

    def __getitem__(self, z: int) -> np.ndarray:
        slice_ = self._read(z)
        if slice_ is None:
            others = sorted(range(len(self)), key=lambda other: abs(other - z))
            readable = (slice_ for slice_ in map(self._read, others) if slice_ is not None)
            slice_ = next(readable, None)
        if slice_ is None:
            raise InputError(f"{self.name} has no slice that can be read")
        return slice_

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[z] for z in range(len(self)))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of most slices."""
        return self._common_form[0]

    @property
    def dtype(self) -> np.dtype:
        return self._common_form[1]

    def slice_size(self, z: int) -> tuple[int, int]:
        """(H, W) of slice z as its header says, or that of most slices where it says nothing."""
        form = self._forms[z]
        return form[0] if form else self.size

    @cached_property
    def _forms(self) -> list[tuple[tuple[int, int], np.dtype] | None]:
        """Size and dtype of each slice, None where its header cannot be read."""
        forms: list[tuple[tuple[int, int], np.dtype] | None] = []
        for path in self.image_paths:
            try:
                forms.append(read_form(path))
            except InputError:
                forms.append(None)
        return forms

    @cached_property
    def _common_form(self) -> tuple[tuple[int, int], np.dtype]:
        counts = Counter(form for form in self._forms if form)
        return max(counts, key=counts.__getitem__, default=((1, 1), np.dtype(np.uint16)))

    def _read(self, z: int) -> np.ndarray | None:
        """Slice z, made to fit; None where it cannot be read, which is not tried twice."""
        if z in self.unreadable:
            return None
        try:
            return self._fitted(z, read_grey(self.image_paths[z]))
        except InputError as error:
            self._note(z, error, "the nearest readable slice stands in for it")
            self.unreadable.add(z)
            return None

    def _fitted(self, z: int, slice_: np.ndarray) -> np.ndarray:
        if slice_.dtype != self.dtype:
            self._note(z, f"has {slice_.dtype} grey values, most slices have {self.dtype}", "its values are rescaled")
            wide = slice_.astype(np.uint16)
            slice_ = wide * _EIGHT_TO_SIXTEEN_BITS if self.dtype == np.uint16 else (wide >> 8).astype(np.uint8)
        if slice_.shape != self.size:
            sizes = [f"{height}x{width}" for height, width in (slice_.shape, self.size)]
            self._note(z, f"is {sizes[0]}, most slices are {sizes[1]}", "resized for the model, and its mask back")
            slice_ = resize_slice(slice_, *self.size)
        return slice_

    def _note(self, z: int, problem: str | Exception, remedy: str) -> None:
        self.touched.add(z)
        self.faults.note(self.slice_ids[z], problem, remedy)


def open_fault_tolerant_volumes(data_dir: Path, faults: Faults) -> list[FaultTolerantVolume]:
    """Opens the kidneys of the test set, as far as they can be opened.

    Args:
        data_dir: a folder that holds `test/`.
        faults: gets a note of a kidney without slices and of two slices of one name.

    Returns:
        The kidneys that have slices, in ascending order of name; no slice has been read.

    Raises:
        InputError: there is no kidney with a slice, so no submission to make.
    """
    volumes = []
    for kidney_dir in find_folders(data_dir / "test"):
        paths = find_slices(kidney_dir / "images")
        by_stem = {path.stem: path for path in reversed(paths)}
        chosen = tuple(path for path in paths if by_stem[path.stem] == path)
        if not paths:
            faults.note(kidney_dir.name, "has no slices: expected images/*.tif in it", "it gets no rows")
            continue
        if len(by_stem) < len(paths):
            twins = sorted({path.stem for path in paths if by_stem[path.stem] != path})
            faults.note(
                kidney_dir.name, f"has two slices of the name {', '.join(twins[:3])}", "the first of them counts"
            )
        volumes.append(FaultTolerantVolume(kidney_dir.name, chosen, {}, faults=faults))
    if not volumes:
        raise InputError(f"{data_dir / 'test'} has no slices: expected <kidney>/images/*.tif")
    return volumes
