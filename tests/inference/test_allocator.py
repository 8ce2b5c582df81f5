"""Memory that is taken again after it was freed is not made of new pages."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from sennet_kaggle.inference.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for count, mebibytes in ((4, 12), (2, 96)):
        for _ in range(20):
            blocks = [np.ones(mebibytes * 2**18, np.float32) for _ in range(count)]
            del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_freed_memory()
thread = ThreadPoolExecutor(1)
for _ in range(2):  # the first time all pages are new
    counts = faults(), thread.submit(faults).result()
print(*counts)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.slow
def test_freed_memory_is_taken_again():
    """By the first thread and by another, in processes of their own, since nothing undoes it.

    Numpy is kept from asking for huge pages.
    """
    faults = {
        how: subprocess.run(
            [sys.executable, "-c", PROGRAM, how],
            env={"PYTHONPATH": ":".join(sys.path), "NUMPY_MADVISE_HUGEPAGE": "0"},
            check=True,
            capture_output=True,
        ).stdout.split()
        for how in ("keep", "give back")
    }
    assert max(map(int, faults["keep"])) < 100 < 10_000 < min(map(int, faults["give back"]))
