"""A scan → an OME-Zarr of its masks in blocks of slices, on Dask's workers: those of this machine or of a cluster.

A block is as many whole slices as a chunk of the output is deep. Its task reads them and, as the halo, the slices
around them that the models see with them, so the masks are those of a single process.
"""

import contextlib
import functools
import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..config import Inference
from ..errors import InputError
from ..scans.ome_zarr_writing import CHUNK, ZarrOutput, coarsen
from ..scans.opening import open_scan
from ..scans.partial import claim_run
from ..scans.scan import Scan
from ..scans.writing import is_zarr_output
from .dask_cluster import open_cluster, run_on_blocks
from .ensemble import GreyValues, mean_threshold, measure_grey_values
from .loading import load_predictors
from .predict import predict_probabilities
from .predictor import Predictor
from .scan_run import ScanRun, to_output, write_note


@dataclass(frozen=True)
class Job:
    """What every task needs to know; it travels to other machines."""

    scan_path: str
    level: str | None
    axes: str | None
    grey_range: tuple[float, float] | None
    """See `Scan.grey_range`: of the whole scan."""
    output: ZarrOutput
    checkpoint_paths: tuple[str, ...]
    inference: Inference
    grey_values: GreyValues
    """Of the whole scan, not of a block."""
    probability: bool
    journal_dir: str


def segment_blocks(run: ScanRun, workers: int, scheduler: str | None) -> float:
    """Segments a scan in blocks; arguments and result as `segment_scan`.

    Finished blocks stay, also those of a worker that was killed, and of a run that was.

    Args:
        run: with an OME-Zarr output and axes z.
        workers: processes of a cluster on this machine, where no scheduler is named.
        scheduler: address of a running one.

    Raises:
        InputError: another format or axes zyx, as `open_cluster` and `run_on_blocks`, or whatever a block finds wrong.
    """
    if workers < 0:
        raise InputError(f"workers must be a number of processes, got {workers}")
    if run.inference.axes != "z":
        raise InputError("blocks are of whole slices, so axes must be z, got zyx: leave out --workers and --scheduler")
    if not is_zarr_output(run.output_path):
        raise InputError(f"blocks are written at once, so the output must be a .zarr, got {run.output_path}")
    scan = run.scan
    output = ZarrOutput(run.output_path, scan.shape, run.dtype, scan.voxel_size_um, scan)
    key = {**run.key, "blocks": CHUNK[0]}
    with open_cluster(workers, scheduler) as client, claim_run(run.output_path, key) as folder:
        predictors = load_predictors(run.checkpoint_paths, run.inference)
        job = Job(
            str(scan.path.absolute()),
            scan.found.details.get("level"),
            scan.asked_axes,
            scan.grey_range,
            output,
            tuple(str(path.absolute()) for path in run.checkpoint_paths),
            run.inference,
            measure_grey_values(scan, predictors, run.inference),
            run.probability,
            str(folder.absolute()),
        )
        del predictors
        if not any(folder.glob("block-*")):
            output.discard()  # of a run of another key
        try:
            output.make()
            total = sum(run_on_blocks(client, partial(segment_block, job), scan.shape[0], "segmenting blocks"))
            for level in range(1, len(output.shapes)):
                coarsen_block = partial(_coarsen_block, job.output, level)
                run_on_blocks(client, coarsen_block, output.shapes[level][0], f"level {level}")
            output.finish()
        except BaseException:
            if not any(folder.glob("block-*")):
                output.discard()
            raise
    write_note(run)
    return total / np.prod(scan.shape, dtype=np.int64).item() / (255 if run.probability else 1)


def segment_block(job: Job, first: int) -> int:
    """Segments the slices from z = first on, as far as a block reaches, and writes them.

    Returns:
        The sum of the voxels written. What is finished is not done again.
    """
    journal = Path(job.journal_dir) / f"block-{first}"
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(journal.read_text())
    scan = _open(job)
    predictors = _load(job.checkpoint_paths, json.dumps(vars(job.inference)))
    threshold = mean_threshold(predictors)
    zs = range(first, min(first + CHUNK[0], len(scan)))
    found = predict_probabilities(scan, predictors, job.inference, zs, grey_values=job.grey_values)
    slab = np.stack(
        [to_output(probability, threshold, job.inference.hysteresis, job.probability) for _, probability in found]
    )
    job.output.put(0, first, slab.astype(np.uint8))
    total = int(slab.sum(dtype=np.int64))
    temporary = journal.with_name(f".{journal.name}.{os.getpid()}")
    temporary.write_text(str(total))
    os.replace(temporary, journal)
    return total


def _coarsen_block(output: ZarrOutput, level: int, first: int) -> int:
    coarsen(output, level, first)
    return 0


def _open(job: Job) -> Scan:
    scan = open_scan(job.scan_path, job.level, axes=job.axes)
    scan.__dict__["grey_range"] = job.grey_range  # that of the whole scan, which has been measured
    return scan


@functools.lru_cache(maxsize=1)
def _load(checkpoint_paths: tuple[str, ...], settings: str) -> list[Predictor]:
    """The models, loaded once by each worker."""
    return load_predictors(checkpoint_paths, Inference(**json.loads(settings)))
