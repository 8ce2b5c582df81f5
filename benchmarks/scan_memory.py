"""Time and peak memory of segment on a synthetic OME-Zarr scan, in a process of its own.

    python benchmarks/scan_memory.py DEPTH HEIGHT WIDTH [-- OPTIONS of segment]

such as 64 1330 1598 -- --tta none. The scan is made once for each shape, in a folder of the system's temporary files.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.data.phantom import Phantom, phantom_slices  # noqa: E402
from sennet_kaggle.scans.writing import create_output  # noqa: E402

MEASURED = """
import resource, sys
from sennet_kaggle.__main__ import main
if __name__ == "__main__":
    status = main(sys.argv[1:])
    own, workers = (resource.getrusage(each).ru_maxrss for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"peak memory: {own / 1e6:.2f} GB, of its largest worker {workers / 1e6:.2f} GB")
    sys.exit(status)
"""


def scan_of(shape: tuple[int, int, int]) -> Path:
    """A phantom as OME-Zarr; one that is there is taken again."""
    path = Path(tempfile.gettempdir()) / f"phantom-{'x'.join(map(str, shape))}.ome.zarr"
    if not path.exists():
        with create_output(path, shape, "uint16", (50.0, 50.0, 50.0)) as put:
            for slice_, _ in phantom_slices(Phantom(shape)):
                put(slice_)
    return path


if __name__ == "__main__":
    depth, height, width = map(int, sys.argv[1:4])
    options = sys.argv[5:]
    scan_path = scan_of((depth, height, width))
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "measured.py"
        program.write_text(MEASURED)
        command = [sys.executable, str(program), "segment", "--input", str(scan_path)]
        command += ["--output", f"{folder}/mask.ome.zarr", *options]
        started = time.monotonic()
        subprocess.run(command, check=True, env={"PYTHONPATH": str(REPOSITORY), "PATH": ""})
        print(f"{time.monotonic() - started:.0f} s")
