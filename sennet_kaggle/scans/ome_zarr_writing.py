"""Slices in order → an OME-Zarr image or label with a pyramid, in the memory of a few slabs."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import check_output_dir, make_dir, making_dir, write_whole
from .ome_zarr import Multiscale, is_zarr, open_node, read_multiscale
from .scan import Scan, VoxelSize

Step = tuple[int, int, int]
CHUNK = (32, 256, 256)
"""Voxels of a chunk along z, y and x."""
_COARSEST = 256
_VERSION = "0.5"
_FORMATS = {"0.4": 2, "0.5": 3}
_COLOUR = [255, 0, 0, 255]


def check_zarr(path: Path) -> None:
    """Checks that an OME-Zarr can be made.

    Raises:
        InputError: there is something already; it lies in an image but not among its labels; or it cannot be made.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} must be new or an empty folder, found files: name another, or move it away")
    image = image_of(path)
    if image is not None:
        read_multiscale(open_node(image), image)
    check_output_dir(path)


def image_of(path: Path) -> Path | None:
    """The OME-Zarr image that a label goes into; None for a path of its own.

    Raises:
        InputError: the path lies in an OME-Zarr, but not where labels are.
    """
    inside = [each for each in path.absolute().parents if is_zarr(each)]
    if not inside and not any(each.name.lower().endswith(".zarr") for each in path.absolute().parents):
        return None
    image = path.absolute().parent.parent
    if path.absolute().parent.name != "labels" or not is_zarr(image):
        raise InputError(f"{path} must be IMAGE.zarr/labels/NAME to be a label of that image, or a path of its own")
    return image


class ZarrOutput:
    """A multiscale group that is being written, under a temporary name.

    Args:
        path: what it is to be called.
        shape: D, H, W.
        dtype: bool makes it a label.
        voxel_size_um: along z, y and x.
        like: the scan, whose version is taken over where it is an OME-Zarr.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int, int], dtype: np.dtype, voxel_size_um: VoxelSize | None, like: Any
    ):
        self.path, self.image = path, image_of(path)
        self.temporary_path = path.with_name(f".{path.name}.partial")
        self.is_label = dtype == np.bool_
        self.dtype = np.dtype(np.uint8) if self.is_label else dtype
        self.voxel_size_um = voxel_size_um
        self.multiscale = _outer(self.image, like)
        self.shapes, self.steps = _pyramid(shape, self._steps_of_image(like))
        self.version = self.multiscale.version if self.multiscale else _VERSION
        if self.version not in _FORMATS:
            self.version = _VERSION if self.version > _VERSION else "0.4"

    def _steps_of_image(self, like: Scan | None) -> list[Step] | None:
        """How much coarser each level is than the one before in the image around a label, which has as many levels."""
        if self.image is None or self.multiscale is None:
            return None
        order = [self.multiscale.names.index(name) for name in "zyx"]
        scales = np.array([[scale[index] for index in order] for scale in self.multiscale.levels.values()])
        steps = np.maximum(1, np.rint(scales[1:] / scales[:-1])).astype(int).tolist()
        shown = like.found.details.get("level") if like is not None else None
        skipped = [*self.multiscale.levels].index(shown) if shown in self.multiscale.levels else 0
        return [(z, y, x) for z, y, x in steps[skipped:]] + [(2, 2, 2)] * skipped

    @property
    def others(self) -> list[dict[str, Any]]:
        """Axes before z, y and x that the image around a label has; each is 1 long here."""
        axes = self.multiscale.axes if self.multiscale and self.image is not None else ()
        return [axis for axis in axes if str(axis["name"])[:1].lower() not in "zyx"]

    def make(self) -> None:
        """Makes the group with its arrays, all 0, and its metadata."""
        import zarr

        make_dir(self.temporary_path.parent)
        group = zarr.open_group(self.temporary_path, mode="a", zarr_format=_FORMATS[self.version])  # type: ignore[arg-type]
        lead = (1,) * len(self.others)
        for level, shape in enumerate(self.shapes):
            if str(level) in group:
                continue
            chunks = tuple(min(size, length) for size, length in zip(CHUNK, shape, strict=True))
            separator = {"name": "v2", "separator": "/"} if self.version == "0.4" else None
            group.create_array(
                str(level),
                shape=lead + shape,
                chunks=lead + chunks,
                dtype=self.dtype,
                fill_value=0,
                chunk_key_encoding=separator,  # type: ignore[arg-type]
                dimension_names=None if self.version == "0.4" else [axis["name"] for axis in self._axes()],
            )
        group.attrs.update(self._attributes())

    def discard(self) -> None:
        """Removes what an earlier run has left of it."""
        shutil.rmtree(self.temporary_path, ignore_errors=True)

    def array(self, level: int) -> Any:
        """The array of a level, (…, D, H, W)."""
        import zarr

        return zarr.open_array(self.temporary_path / str(level), mode="r+")

    def put(self, level: int, first: int, slab: np.ndarray) -> None:
        """Writes slices of a level, (d, h, w), from z = first on."""
        place = (0,) * len(self.others)
        self.array(level)[(*place, slice(first, first + len(slab)))] = slab

    def get(self, level: int, first: int, end: int) -> np.ndarray:
        """Reads slices of a level, (d, h, w)."""
        place = (0,) * len(self.others)
        return np.asarray(self.array(level)[(*place, slice(first, end))])

    def finish(self) -> None:
        """Gives the group its name, and adds it to the labels of the image around it."""
        if self.path.exists():
            self.path.rmdir()  # an empty folder: nothing else has passed the check
        self.temporary_path.rename(self.path)
        if self.image is not None:
            _add_label(self.image, self.path.name, _FORMATS[self.version])

    def _axes(self) -> list[dict[str, Any]]:
        unit = {"unit": "micrometer"} if self.voxel_size_um else {}
        return [*self.others, *({"name": name, "type": "space", **unit} for name in "zyx")]

    def _attributes(self) -> dict[str, Any]:
        fine = self.voxel_size_um or (1.0, 1.0, 1.0)
        datasets = []
        for level in range(len(self.shapes)):
            steps = np.prod([(1, 1, 1), *self.steps[:level]], axis=0).tolist()
            scale = [size * step for size, step in zip(fine, steps, strict=True)]
            # Blocks of voxels are one, whose middle lies between theirs.
            shift = [size * (step - 1) / 2 for size, step in zip(fine, steps, strict=True)]
            moves: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0] * len(self.others) + scale}]
            if level:
                moves.append({"type": "translation", "translation": [0.0] * len(self.others) + shift})
            datasets.append({"path": str(level), "coordinateTransformations": moves})
        multiscales = {"name": self.path.name, "axes": self._axes(), "datasets": datasets, "type": "maximum of blocks"}
        fields: dict[str, Any] = {"multiscales": [multiscales]}
        if self.is_label:
            fields["image-label"] = {"colors": [{"label-value": 1, "rgba": _COLOUR}]}
            if self.image is not None:
                fields["image-label"]["source"] = {"image": "../../"}
        if self.version == "0.4":
            multiscales["version"] = "0.4"
            if self.is_label:
                fields["image-label"]["version"] = "0.4"
            return fields
        return {"ome": {"version": self.version, **fields}}


@contextmanager
def write_zarr(
    path: Path, shape: tuple[int, int, int], dtype: np.dtype, voxel_size_um: VoxelSize | None, like: Scan | None
) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Gives a function that takes slice after slice; the pyramid grows with them."""
    with making_dir(path.parent):
        output = ZarrOutput(path, shape, dtype, voxel_size_um, like)
        output.discard()
        try:
            output.make()
            pending: list[np.ndarray] = []

            def put(z: int, slice_: np.ndarray) -> None:
                pending.append(slice_.astype(output.dtype))
                if len(pending) == CHUNK[0] or z == shape[0] - 1:
                    slab = np.stack(pending)
                    pending.clear()
                    output.put(0, z + 1 - len(slab), slab)

            yield put
            for level in range(1, len(output.shapes)):
                for first in range(0, output.shapes[level][0], CHUNK[0]):
                    coarsen(output, level, first)
            output.finish()
        finally:
            output.discard()


def coarsen(output: ZarrOutput, level: int, first: int) -> None:
    """Makes a slab of chunks of a level of the one before: the largest value of each block of voxels.

    A vessel one voxel wide is then seen from afar, too; it looks wider than it is.
    """
    steps = output.steps[level - 1]
    end = min(first + CHUNK[0], output.shapes[level][0])
    slab = output.get(level - 1, first * steps[0], min(end * steps[0], output.shapes[level - 1][0]))
    for axis, step in enumerate(steps):
        if step > 1:
            slab = np.maximum.reduceat(slab, range(0, slab.shape[axis], step), axis=axis)
    output.put(level, first, slab)


def _pyramid(shape: Step, wanted: list[Step] | None) -> tuple[list[Step], list[Step]]:
    """Sizes of the levels, and by how much each is coarser than the one before.

    Args:
        shape: of the finest.
        wanted: the steps; when not given, halved until a slice fits into one chunk.
    """
    shapes = [shape]
    steps: list[Step] = []
    while max(shapes[-1]) > _COARSEST if wanted is None else len(steps) < len(wanted):
        step = (2, 2, 2) if wanted is None else wanted[len(steps)]
        z, y, x = (min(each, size) for each, size in zip(step, shapes[-1], strict=True))
        depth, height, width = (-(-size // each) for size, each in zip(shapes[-1], (z, y, x), strict=True))
        steps.append((z, y, x))
        shapes.append((depth, height, width))
    return shapes, steps


def _outer(image: Path | None, like: Scan | None) -> Multiscale | None:
    if image is not None:
        return read_multiscale(open_node(image), image)
    return like.found.details.get("ome_zarr") if like is not None else None


def _add_label(image: Path, name: str, zarr_format: int) -> None:
    """Adds a name to the list of an image's labels."""
    path = image / "labels" / ("zarr.json" if zarr_format == 3 else ".zattrs")
    if zarr_format == 3:
        fields: dict[str, Any] = {"zarr_format": 3, "node_type": "group"}
        fields = json.loads(path.read_bytes()) if path.is_file() else fields
        attributes = fields.setdefault("attributes", {})
        listed = attributes.setdefault("ome", {"version": _VERSION}).setdefault("labels", [])
    else:
        group = path.with_name(".zgroup")
        if not group.is_file():
            write_whole(group, json.dumps({"zarr_format": 2}).encode())
        fields = json.loads(path.read_bytes()) if path.is_file() else {}
        listed = fields.setdefault("labels", [])
    if name not in listed:
        listed.append(name)
    write_whole(path, json.dumps(fields, indent=1).encode())
