"""Executes a notebook in a fresh interpreter and shows what it prints while it runs.

python -P sennet_kaggle/notebook.py NOTEBOOK EXECUTED WORKING_DIR
"""

import io
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

_STOPPED = 128 + signal.SIGTERM


class EchoingClient(NotebookClient):
    """Runs a notebook; what its cells print appears at once, on the stream they printed it to."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream":
            stream = sys.stderr if msg["content"]["name"] == "stderr" else sys.stdout
            stream.write(msg["content"]["text"])
            stream.flush()
        return super().process_message(msg, cell, cell_index)


def execute_notebook(notebook_path: Path, executed_path: Path, working_dir: Path) -> None:
    """Runs every cell and saves the notebook with its outputs, also when a cell fails.

    The kernel is reached by sockets in a folder, not by ports, so that it also runs where there is no network at all.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(notebook_path, as_version=4)
    client = EchoingClient(
        notebook,
        timeout=None,
        coalesce_streams=True,  # else each step of a progress bar would be an output of its own
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=50"],  # a stopped kernel's complaints about its closed sockets
        resources={"metadata": {"path": str(working_dir)}},
    )
    kernel_manager = client.create_kernel_manager()
    with tempfile.TemporaryDirectory() as socket_dir:
        if os.name != "nt":  # which lacks such sockets
            kernel_manager.transport, kernel_manager.ip = "ipc", f"{socket_dir}/kernel"
        try:
            client.execute()
        except Exception:
            if hasattr(client, "_async_cleanup_kernel_future"):  # nbclient has ended the notebook after a signal
                logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # what it left undone is no one's matter now
                sys.exit(_STOPPED)
            raise
        finally:
            nbformat.write(notebook, executed_path)


if __name__ == "__main__":
    for console in (sys.stdout, sys.stderr):
        if isinstance(console, io.TextIOWrapper):
            console.reconfigure(errors="backslashreplace")  # its encoding may lack what the notebook prints
    # Else the notebook's own process would outlive this one; nbclient's handlers are only there once it has begun.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_STOPPED))
    try:
        execute_notebook(*map(Path, sys.argv[1:4]))
    except CellExecutionError as error:
        sys.exit(f"{error.ename}: {error.evalue}")
