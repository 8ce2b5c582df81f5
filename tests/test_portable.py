"""Other systems than Linux: without the modules and functions that they lack, the same commands give the same files."""

import subprocess
import sys

import numpy as np
from conftest import REPOSITORY

from sennet_kaggle.__main__ import main

# Of this one, what Windows and, of some, macOS lack. ctypes there refuses to open the process itself.
PREPARE = """
import sys
for name in ("fcntl", "resource"):
    sys.modules[name] = None
import ctypes, os, select, signal
del os.posix_fallocate, select.poll, signal.SIGHUP, signal.SIGPIPE
class Library(ctypes.CDLL):
    def __init__(self, name, *arguments, **options):
        if name is None:
            raise TypeError("bad argument type for built-in operation")
        super().__init__(name, *arguments, **options)
ctypes.CDLL = Library
"""
LOCKING = """
import types
taken = {}
def locking(descriptor, mode, size):
    place = os.fstat(descriptor).st_ino
    if taken.setdefault(place, descriptor) != descriptor:
        raise OSError(13, "Permission denied")
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
"""


def run(program: str, cwd, status: int = 0) -> str:
    """What a program prints on a system that lacks all that."""
    command = [sys.executable, "-c", PREPARE + program]
    environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stderr
    return result.stdout


def test_every_module_can_be_imported(tmp_path):
    program = """
import pkgutil, importlib, sennet_kaggle
for module in pkgutil.walk_packages(sennet_kaggle.__path__, "sennet_kaggle."):
    importlib.import_module(module.name)
print("done")
"""
    assert run(program, tmp_path) == "done\n"


def test_predict_writes_the_same_bytes(tmp_path, monkeypatch):
    all_options = {"z": "", "zyx": "--axes zyx --tta none --extra-scales --scratch-dir ."}
    program = """
from sennet_kaggle.__main__ import main
assert main("phantom P --name k --split test --shape 3 96 80".split()) == 0
"""
    for name, options in all_options.items():
        program += f'assert main("predict --data-dir P --output {name}.csv {options}".split()) == 0\n'
    run(program, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, options in all_options.items():
        assert main(f"predict --data-dir P --output here.csv {options}".split()) == 0
        assert (tmp_path / "here.csv").read_bytes() == (tmp_path / f"{name}.csv").read_bytes(), name


def test_a_training_folder_is_claimed_once(tmp_path):
    program = (
        LOCKING
        + """
from sennet_kaggle.errors import InputError
from sennet_kaggle.locking import claim_dir
with claim_dir("run"):
    try:
        with claim_dir("run"):
            pass
    except InputError as error:
        print(error)
"""
    )
    assert run(program, tmp_path).startswith("another process is writing to run")


def test_a_memory_map_has_its_room(tmp_path):
    program = """
import numpy as np
from sennet_kaggle.files import open_reserved
array = open_reserved("a.npy", np.dtype(np.uint16), (300, 100, 1000))
print(array.shape, int(array.max()), os.stat("a.npy").st_blocks * 512 >= array.nbytes)
array[-1] = 7
"""
    assert run(program, tmp_path) == "(300, 100, 1000) 0 True\n"
    assert np.load(tmp_path / "a.npy", allow_pickle=False)[-1].min() == 7


def test_a_closed_pipe_is_no_error(tmp_path):
    program = """
from sennet_kaggle.cli.console import run_command
def command():
    raise BrokenPipeError("the reader has gone")
sys.exit(run_command(command))
"""
    run(program, tmp_path, status=141)
