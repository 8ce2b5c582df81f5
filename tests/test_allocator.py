"""Memory that is taken again after it was freed is not made of new pages."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from sennet_kaggle.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [np.ones(3 * 2**20, np.float32) for _ in range(4)]  # 12 MiB each
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_taken_again():
    """In processes of their own, since nothing undoes it; numpy is kept from asking for huge pages."""
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, how],
                env={"PYTHONPATH": ":".join(sys.path), "NUMPY_MADVISE_HUGEPAGE": "0"},
                check=True,
                capture_output=True,
            ).stdout
        )
        for how in ("keep", "give back")
    }
    assert faults["keep"] < 100 < 10_000 < faults["give back"]
