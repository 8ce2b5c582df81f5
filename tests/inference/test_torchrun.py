"""A prediction distributed over processes: the same bytes as one process, and a clear end when one dies."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import Preprocessing
from sennet_kaggle.distributed import Shard
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint

UNET = {"in_channels": 3, "widths": [4], "bottleneck": 8}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sennet_kaggle"]
PREDICT = ["predict", "--data-dir", "data", "--checkpoint", "small.safetensors", "--overlap", "0", "--scale", "1.1"]


@pytest.fixture
def folder(tmp_path, write_kidney, monkeypatch):
    """Two kidneys and a model of windows that sees neighbours."""
    write_kidney(tmp_path / "data" / "test" / "kidney_5", depth=5, labels=False)
    write_kidney(tmp_path / "data" / "test" / "kidney_6", depth=4, size=(30, 50), labels=False, first=7)
    preprocessing = Preprocessing(region="windows", roi_size=32, offsets=(-1, 0, 2))
    torch.manual_seed(0)
    model = create_model("unet", **UNET)
    save_checkpoint(tmp_path / "small.safetensors", model, Card("unet", UNET, preprocessing, 0.5))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *TORCHRUN, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("axes", ["z", pytest.param("zyx", marks=pytest.mark.slow)])
def test_two_processes_write_what_one_writes(folder, capsys, axes):
    two = start(*PREDICT, "--axes", axes, "--output", "two.csv")
    assert main([*PREDICT, "--axes", axes, "--output", "one.csv"]) == 0
    output, errors = two.communicate(timeout=300)
    assert two.returncode == 0, errors
    assert output.count("two.csv: 9 rows") == output.count("s per slice, 9 in ") == 1
    assert Path("two.csv").read_bytes() == Path("one.csv").read_bytes()
    assert len(set(Path("one.csv").read_text().splitlines())) == 10  # no mask is like another
    capsys.readouterr()


def test_a_process_that_dies_ends_the_run(folder):
    run = start(*PREDICT, "--output", "two.csv")
    os.kill(process_of_rank(1, run), signal.SIGKILL)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "rank      : 1" in errors and "Signal 9 (SIGKILL)" in errors
    assert not Path("two.csv").exists()


@pytest.mark.slow
def test_an_output_that_cannot_be_written_ends_every_process(folder):
    """At once, and with the line; the traceback below it is torchrun's own."""
    run = start(*PREDICT, "--output", "no/two.csv")
    _, errors = run.communicate(timeout=100)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert run.returncode == 1 and lines and len({*lines}) == 1 and "cannot" in lines[0]
    assert "sennet_kaggle/__main__.py" not in errors
    assert "exitcode  : 2" in errors


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_every_process(folder):
    """The first process cannot write; the others, which wait for it, do not go on waiting."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # the processes inherit it
    try:
        run = start(*PREDICT, "--output", "two.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    _, errors = run.communicate(timeout=100)
    assert "error: cannot write two.csv: the disk has no room (File too large)" in errors
    assert "sennet_kaggle/__main__.py" not in errors and not Path("two.csv").exists()


def process_of_rank(rank: int, torchrun: subprocess.Popen) -> int:
    """Waits until torchrun has started it."""
    while torchrun.poll() is None:
        for pid in map(int, Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()):
            if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                return pid
        time.sleep(0.05)
    raise AssertionError(torchrun.stderr.read())


@pytest.mark.parametrize("length", [0, 1, 2, 5, 100])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_are_the_whole_and_alike(length, world):
    parts = [Shard(rank, world).part(length) for rank in range(world)]
    assert [z for part in parts for z in part] == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_probabilities_are_kept_by_one_process_alone(monkeypatch):
    from sennet_kaggle.inference.predict import predict_rows

    with pytest.raises(InputError, match="one process alone can keep probabilities"):
        next(predict_rows([], [], None, Path("kept"), Shard(0, 2)))


def test_axes_are_shared_out_on_one_machine(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    Shard(0, 2).check_one_machine("axes zyx")
    with pytest.raises(InputError, match="axes zyx is distributed over one machine only.*choose axes z"):
        Shard(0, 4).check_one_machine("axes zyx")
