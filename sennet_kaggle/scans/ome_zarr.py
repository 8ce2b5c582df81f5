"""OME-Zarr 0.4 and 0.5 (and plain Zarr arrays) as scans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, one_line, warn
from .arrays import check_positive
from .scan import Found, VoxelSize
from .sources import ChunkedSource, check_layout
from .tiff_stack import UNITS_UM

_SPACE = "zyx"


@dataclass(frozen=True)
class Multiscale:
    """What an OME-Zarr group says of its levels."""

    version: str
    axes: tuple[dict[str, Any], ...]
    levels: dict[str, tuple[float, ...]]
    """The scale of each level along the axes, by its name, the finest first."""

    @property
    def names(self) -> str:
        """A letter per axis."""
        return "".join(str(axis["name"])[:1].lower() for axis in self.axes)


def open_ome_zarr(path: Path, level: str | int | None, axes: str | None) -> Found:
    """Opens a resolution level of an OME-Zarr image or label, or a plain Zarr array.

    Args:
        path: the group, or an array in it.
        level: name or number of the level; the finest when not given.
        axes: order of the axes where the file names none, or others than it has.
    """
    import zarr

    node = open_node(path)
    if isinstance(node, zarr.Array):
        if _is_level(path):
            return open_ome_zarr(path.parent, path.name, axes)
        layout = check_layout(path, node.shape, axes or "zyx", node.dtype)
        return Found(ChunkedSource(node, layout, node.chunks[layout.axes.index("z")]), _spatial(layout.axes))
    multiscale = read_multiscale(node, path)
    name = _pick_level(multiscale, level, path)
    try:
        array: Any = node[name]
        shape, dtype, chunks = array.shape, array.dtype, array.chunks
    except (KeyError, AttributeError) as error:
        raise InputError(f"{path} names a level {name} that is not there: copy it again, or name another") from error
    layout = check_layout(path / name, shape, axes or multiscale.names, dtype)
    source = ChunkedSource(array, layout, chunks[layout.axes.index("z")])
    details = {"ome_zarr": multiscale, "level": name}
    return Found(source, _spatial(layout.axes), _voxel_size(multiscale, name, path), details=details)


def open_node(path: Path) -> Any:
    """The Zarr group or array of a folder.

    Raises:
        InputError: it is none, or its metadata are damaged.
    """
    import zarr

    try:
        return zarr.open(path, mode="r")
    except Exception as error:  # FileNotFoundError, ValueError, KeyError, JSONDecodeError: whatever the damage leads to
        raise InputError(f"{path} is not a Zarr group or array ({one_line(error)}): copy it again") from error


def read_multiscale(group: Any, path: Path) -> Multiscale:
    """What a group says of its axes and levels.

    Raises:
        InputError: nothing, or nothing that can be understood.
    """
    attributes: Mapping[str, Any] = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    try:
        (multiscale, *_) = ome["multiscales"]
        version = str(ome.get("version") or multiscale.get("version") or "0.4")
        names = multiscale["axes"]
        axes = tuple({"name": each} if isinstance(each, str) else dict(each) for each in names)
        whole = _scale(multiscale.get("coordinateTransformations", ()), len(axes))
        levels = {}
        for each in multiscale["datasets"]:
            scale = _scale(each.get("coordinateTransformations", ()), len(axes))
            levels[str(each["path"])] = tuple(a * b for a, b in zip(scale, whole, strict=True))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(ome, Mapping) and "multiscales" in ome:
            raise InputError(
                f"{path} has multiscales that cannot be read ({type(error).__name__}: {one_line(error)}): expected "
                f"axes, and datasets with a path and scale each; mend its metadata or copy it again"
            ) from error
        children = ", ".join(sorted(name for name, _ in group.members())[:8]) or "nothing"
        raise InputError(
            f"{path} is not an OME-Zarr image: expected multiscales with axes and datasets in its attributes; it has "
            f"{children} in it: name one of these if that is the image"
        ) from error
    return Multiscale(version, axes, levels)


def _pick_level(multiscale: Multiscale, level: str | int | None, path: Path) -> str:
    names = list(multiscale.levels)
    if level is None:
        return names[0]
    if str(level) in names:
        return str(level)
    if str(level).isdecimal() and int(level) < len(names):
        return names[int(level)]
    raise InputError(f"{path} has no level {level}: it has {', '.join(names)}")


def _voxel_size(multiscale: Multiscale, level: str, path: Path) -> VoxelSize | None:
    sizes = []
    for name in _SPACE:
        index = multiscale.names.index(name)
        unit = multiscale.axes[index].get("unit")
        if str(unit).lower() not in UNITS_UM:
            if any(scale != 1 for scale in multiscale.levels[level]):
                warn(f"{path} gives its voxels without a unit of length ({unit}): their size is not known")
            return None
        sizes.append(float(multiscale.levels[level][index]) * UNITS_UM[str(unit).lower()])
    return check_positive((sizes[0], sizes[1], sizes[2]), path)


def _is_level(path: Path) -> bool:
    """Whether an array is a level of the group around it."""
    try:
        return path.name in read_multiscale(open_node(path.parent), path.parent).levels
    except InputError:
        return False


def _scale(transformations: Sequence[Mapping[str, Any]], axes: int) -> tuple[float, ...]:
    for each in transformations:
        if each.get("type") == "scale":
            scale = tuple(float(value) for value in each["scale"])
            if len(scale) != axes:
                raise ValueError(f"scale {scale} for {axes} axes")
            return scale
    return (1.0,) * axes


def _spatial(axes: str) -> str:
    return "".join(name for name in axes if name in _SPACE)


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group or array."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray", ".zattrs"))
