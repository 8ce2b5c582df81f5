"""A mask in any format → a folder with the files about its vessels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError, warn
from ..files import check_output_dir, making_dir, write_whole
from ..rendering import figure_to_png
from ..scans.ome_zarr import is_zarr
from ..scans.opening import open_scan
from ..scans.scan import Scan
from ..scans.writing import is_in_folder
from .export import graphml, segments_csv, swc, totals_json
from .figures import figure_of_radii, figure_of_tree
from .measure import Vessels, measure_vessels

NAMES = ("segments.csv", "totals.json", "vessels.swc", "vessels.graphml", "radii.png", "tree.png")


def write_vessels(
    mask_path: Path,
    output_dir: Path,
    *,
    voxel_size_um: Sequence[float] = (),
    level: str | None = None,
    axes: str | None = None,
    progress: bool = False,
) -> Vessels:
    """Measures a mask and writes segments.csv, totals.json, vessels.swc, vessels.graphml, radii.png and tree.png.

    Args:
        mask_path: what `open_scan` reads, with 0 outside vessels and one other value in them.
        output_dir: made if missing; also holds a temporary file of one bit per voxel meanwhile.
        voxel_size_um: along z, y, x, or one for cubes; that of the file when not given.
        level: resolution level of an OME-Zarr.
        axes: order of the file's axes where it does not say.
        progress: show progress bars.

    Raises:
        InputError: as `open_scan` and `measure_vessels`, or the file is no mask, or one without a vessel, or the
            folder lies in it.
        OutputError: the folder cannot be written to.
    """
    size = _check_size(voxel_size_um)
    scan = open_scan(mask_path, level, axes=axes, voxel_size_um=size)
    if is_in_folder(output_dir, mask_path) or any(map(is_zarr, output_dir.absolute().parents)):
        raise InputError(f"cannot write to {output_dir}: it lies in the mask or scan, so name a folder elsewhere")
    check_output_dir(output_dir, NAMES, (mask_path,))
    if scan.voxel_size_um is None:
        warn(f"{mask_path} does not say its voxel size: lengths are in voxels; --voxel-size-um gives micrometres")
    with making_dir(output_dir):
        vessels = measure_vessels(
            mask_slices(scan), scan.voxel_size_um, shape=scan.shape, scratch_dir=output_dir, progress=progress
        )
        texts = (segments_csv, totals_json, swc, graphml)
        contents = [text(vessels).encode() for text in texts]
        contents += [figure_to_png(figure(vessels)) for figure in (figure_of_radii, figure_of_tree)]
        for name, content in zip(NAMES, contents, strict=True):
            write_whole(output_dir / name, content)
    return vessels


def mask_slices(scan: Scan) -> Iterator[np.ndarray]:
    """A mask's slices, (H, W) bool.

    Raises:
        InputError: it has more than one value besides 0, or, after the last slice, none.
    """
    vessel = None
    for z in range(len(scan)):
        stored = scan.stored(z)
        mask = stored != 0
        if stored.dtype.kind == "f" and np.isnan(stored).any():
            raise InputError(f"{scan.path} is not a mask: expected 0 and one other value, found NaN at slice {z}")
        values = stored[mask]
        if values.size:
            vessel = values[0] if vessel is None else vessel
            others = values[values != vessel]
            if others.size:
                raise InputError(
                    f"{scan.path} is not a mask: expected 0 and one other value, found {vessel} and {others[0]}; "
                    f"cut a probability or a scan at a threshold first"
                )
        yield mask
    if vessel is None:
        raise InputError(f"{scan.path} must mark vessels, found 0 in every voxel: there is nothing to measure")


def _check_size(sizes: Sequence[float]) -> tuple[float, float, float] | None:
    if len(sizes) not in (0, 1, 3):
        raise InputError(f"voxel_size_um must be one number or three (z, y, x), got {len(sizes)}: {[*sizes]}")
    if not sizes:
        return None
    z, y, x = sizes if len(sizes) == 3 else [sizes[0]] * 3
    return float(z), float(y), float(x)
