"""The command that turns a mask into the tree of its vessels."""

from pathlib import Path

# Heavy libraries are imported by the commands that need them, so that --help answers at once.


def vessels(
    mask: Path,
    output_dir: Path,
    voxel_size_um: tuple[float, ...] = (),
    level: str | None = None,
    axis_order: str | None = None,
) -> None:
    """Measure the vessels of a mask: centre lines, lengths, radii, how they branch; tables, SWC, GraphML, pictures.

    Args:
        mask: A folder of slices, a TIFF stack, .npy, NIfTI or OME-Zarr, with 0 outside vessels and one value in them.
        output_dir: Gets segments.csv, totals.json, vessels.swc, vessels.graphml, radii.png and tree.png.
        voxel_size_um: Micrometres along z, y and x, or one number for cubes; what the file says when not given.
        level: Resolution level of an OME-Zarr; the finest when not given.
        axis_order: Order of the file's axes where it does not say, such as xyz.
    """
    from ..vessels.run import NAMES, write_vessels

    found = write_vessels(mask, output_dir, voxel_size_um=voxel_size_um, level=level, axes=axis_order, progress=True)
    for name, value in found.totals.items():
        print(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")
    print(f"{output_dir}: {', '.join(NAMES)}")
