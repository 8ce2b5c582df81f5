"""A task for every block of a scan, on Dask's workers: those of this machine or of a running cluster."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from ..errors import InputError, one_line, say
from ..progress import progress_bar
from ..scans.ome_zarr_writing import CHUNK
from ..submission.provenance import hash_package

_CONNECT_SECONDS = 10.0
_CHECK_SECONDS = 5.0  # between two looks at whether there is any worker


@contextmanager
def open_cluster(workers: int, scheduler: str | None) -> Iterator[Any]:
    """A client of a cluster: a running one, or one on this machine that ends with the block.

    Args:
        workers: processes on this machine, where no scheduler is named.
        scheduler: address of a running one; its first worker is waited for.

    Raises:
        InputError: the scheduler does not answer, or a worker has not this package, of this version.
    """
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(
                f"no Dask scheduler answers at {scheduler} ({one_line(error)}): start one with dask scheduler"
            ) from error
        with client, _explaining_a_lost_scheduler(scheduler):
            with _reporting_missing_workers(client):
                client.wait_for_workers(1)
            _check_workers(client)
            yield client
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address=None,
        memory_limit=0,
        silence_logs=logging.ERROR,
        env={"OMP_NUM_THREADS": str(threads)},
    )
    with cluster, Client(cluster) as client:
        yield client


def run_on_blocks(client: Any, task: Callable[[int], int], depth: int, label: str) -> list[int]:
    """Runs a task for every block of slices along z, as deep as a chunk of the output, behind a progress bar.

    Args:
        client: of `open_cluster`.
        task: called with the z of the block's first slice; travels to the workers.
        depth: slices in all.
        label: of the bar.

    Returns:
        What each gave, in no order.

    Raises:
        InputError: the same block ends worker after worker, or what a task raises.
    """
    import dask.array as da
    from distributed import as_completed, futures_of
    from distributed.scheduler import KilledWorker

    blocks = -(-depth // CHUNK[0])
    results = da.map_blocks(partial(_call, task), chunks=((1,) * blocks,), dtype=np.int64, meta=np.empty(0, np.int64))
    found = []
    with progress_bar(label, blocks, unit="block") as progress, _reporting_missing_workers(client):
        try:
            for future in as_completed(futures_of(client.persist(results, optimize_graph=False))):
                found.append(int(future.result()[0]))
                progress.update()
        except KilledWorker as error:
            raise InputError(
                f"the same block has ended several workers ({one_line(error)}): give each more memory, or use fewer; "
                f"the same command then goes on"
            ) from error
    return found


def _call(task: Callable[[int], int], block_info: Any = None) -> np.ndarray:
    (block,) = block_info[None]["chunk-location"]
    return np.array([task(block * CHUNK[0])])


def _check_workers(client: Any) -> None:
    """Raises InputError where a worker would fail, or give masks of another version of this package."""
    expected = hash_package()
    for address, found in client.run(hash_package, on_error="return").items():
        if isinstance(found, Exception):
            raise InputError(
                f"the Dask worker at {address} cannot use sennet_kaggle ({one_line(found)}): start it in an "
                f"environment that has this package"
            )
        if found != expected:
            raise InputError(
                f"the Dask worker at {address} has another version of sennet_kaggle: install the same version there"
            )


@contextmanager
def _explaining_a_lost_scheduler(scheduler: str) -> Iterator[None]:
    from distributed.comm import CommClosedError

    try:
        yield
    except (CancelledError, CommClosedError) as error:
        raise InputError(
            f"the Dask scheduler at {scheduler} has ended: start it and its workers, then the same command goes on"
        ) from error


@contextmanager
def _reporting_missing_workers(client: Any) -> Iterator[None]:
    """Says once that there is no worker; Dask waits for one without a word."""
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(_CHECK_SECONDS):
            with contextlib.suppress(Exception):  # of a connection that is being closed
                if not client.scheduler_info()["workers"]:
                    say(f"waiting for a Dask worker: start one with dask worker {client.scheduler.address}")
                    return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
