"""Commands on scans: segment one of any format, measure a data set, make a synthetic kidney."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from ..config import DEFAULT_INFERENCE, Inference, Preprocessing

if TYPE_CHECKING:
    from ..inference.scan_run import ScanRun

# Heavy libraries are imported by the commands that need them, so that --help answers at once.


def segment(
    input: Path,
    output: Path,
    checkpoint: tuple[Path, ...] = (),
    voxel_size_um: float | None = None,
    level: str | None = None,
    axis_order: str | None = None,
    probability: bool = False,
    workers: int = 0,
    scheduler: str | None = None,
    inference: Inference = DEFAULT_INFERENCE,
) -> None:
    """Segment a scan of your own: a folder of slices, a TIFF stack, .npy, NIfTI or OME-Zarr.

    The same command goes on where it was stopped or killed. Masks are resized to the scan's own voxels.

    Args:
        input: A folder of slices (.tif, .png, .jp2), a TIFF of many pages, .npy, .nii, .nii.gz, or an OME-Zarr folder.
        output: What to make, by its name: no suffix, a folder of TIFFs; .tif, BigTIFF with ImageJ's metadata; .npy;
            .nii or .nii.gz; .zarr, OME-Zarr with a pyramid; IMAGE.zarr/labels/NAME, a label in that OME-Zarr.
        checkpoint: Checkpoints to average; the shipped ones when none is named.
        voxel_size_um: Side of the scan's voxels in micrometres, instead of what its file says.
        level: Resolution level of an OME-Zarr; the finest when not given.
        axis_order: Order of the file's axes where it does not say or says it wrong, such as xyz.
        probability: Write the probability, 0 to 255, instead of the mask.
        workers: Work in blocks of slices in so many processes of this machine, with Dask; the output is OME-Zarr.
        scheduler: The same on a running Dask cluster, by its address, such as tcp://10.0.0.1:8786; its workers must
            see input, output and checkpoints under the same paths.
        inference: How the model is run.
    """
    import time

    from ..files import shipped_checkpoints
    from ..inference.scan_blocks import segment_blocks
    from ..inference.scan_run import describe_run, note_path, plan_run, segment_scan
    from ..scans.opening import open_scan

    scan = open_scan(input, level, axes=axis_order, voxel_size_um=voxel_size_um)
    checkpoints = checkpoint or tuple(shipped_checkpoints())
    run = plan_run(scan, output, checkpoints, inference, voxel_size_um is not None, probability)
    print(describe_run(run), flush=True)
    started = time.monotonic()
    share = segment_blocks(run, workers, scheduler) if workers or scheduler else segment_scan(run)
    if scheduler is None:  # who knows what a cluster's machines are
        print(_what_ran(run))
    print(f"time: {time.monotonic() - started:.1f} s, with loading and writing")
    found = f"mean probability {share:.3%}" if probability else f"vessel {share:.3%} of all voxels"
    print(f"{output}: {len(scan)} slices, {found}; {note_path(output)} says what made them")


def _what_ran(run: "ScanRun") -> str:
    """Checkpoints, device, precision and settings, as predict closes with them."""
    from dataclasses import asdict

    from ..inference.loading import pick_device
    from ..models.checkpoint import read_card
    from ..submission.provenance import describe_checkpoint, describe_machine, format_provenance, hash_package

    checkpoints = [describe_checkpoint(path, read_card(path)) for path in run.checkpoint_paths]
    origin = {"package_sha256": hash_package(), "checkpoints": checkpoints}
    settings = {"settings": {"inference": asdict(run.inference)}}
    return format_provenance(origin | settings | describe_machine([pick_device(run.inference.device)]))


def stats(data_dir: Path, volume: tuple[str, ...] = (), preprocessing: Preprocessing = Preprocessing()) -> None:  # noqa: B008
    """Measure a data set: grey values, mean and standard deviation, how much of it is vessel.

    Args:
        data_dir: A folder in the competition's layout.
        volume: Kidneys of train/; all when not given.
        preprocessing: What the model's input is; mean and std are measured before they are applied.
    """
    from ..data.volume import open_volumes
    from ..reports.stats import format_stats, measure_stats

    preprocessing.check()
    print(format_stats(measure_stats(open_volumes(data_dir, "train", volume), preprocessing)))


def phantom(
    directory: tyro.conf.Positional[Path],
    name: str = "phantom_1",
    shape: tuple[int, int, int] = (64, 512, 512),
    seed: int = 0,
    split: Literal["train", "test"] = "train",
    labels: bool = True,
) -> None:
    """Write a synthetic kidney in the competition's layout.

    Args:
        directory: Gets <split>/<name>/{images,labels}/*.tif.
        name: The kidney's name.
        shape: Slices, rows, columns.
        seed: The same seed gives the same bytes.
        split: train or test.
        labels: Write the labels as well.
    """
    from ..data.phantom import Phantom, write_phantom

    print(write_phantom(directory, name, Phantom(shape, seed), split=split, with_labels=labels, progress=True))
