"""The command for machines with a GPU, tried where there is none: as it is on the CPU, and on the stand-in GPU."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from stand_in_gpu import stand_in_gpu

SMALL = ("--shape", "4", "128", "128", "--count", "2")


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import gpu_check

    monkeypatch.delenv("SENNET_DATA_DIR", raising=False)
    return gpu_check


def run(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "SENNET_DATA_DIR"}
    command = [sys.executable, REPOSITORY / "benchmarks" / "gpu_check.py", *arguments]
    environment |= {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def verdicts(output):
    """What is said of each check, by its name."""
    cells = [[cell.strip() for cell in line.split(" | ")] for line in output.splitlines()]
    assert {len(line) for line in cells} == {4}
    return {name: verdict for name, _, _, verdict in cells}


def test_without_a_gpu_it_says_so_in_one_line():
    finished = run()
    assert finished.returncode == 2 and not finished.stdout
    (line,) = finished.stderr.splitlines()
    assert line.startswith("device 'cuda:0' is not on this machine") and line.endswith("--device cpu")


def test_a_failure_is_said_and_the_other_checks_go_on(gpu_check, monkeypatch, capsys):
    def wrong(bench):
        yield gpu_check.Line("masks", "1", "2", False)

    def broken(bench):
        yield gpu_check.Line("before", "", "", True)
        raise RuntimeError("CUDA error:\n illegal")

    def other(bench):
        yield gpu_check.Line("other", "", "", "not here")

    for checks, status in ((other,), 0), ((wrong, other), 1), ((broken, other), 1):
        monkeypatch.setattr(gpu_check, "CHECKS", checks)
        assert gpu_check.main(["--device", "cpu", *SMALL]) == status
    output = capsys.readouterr().out
    assert verdicts(output) == {"masks": "FAILED", "before": "ok", "broken": "FAILED", "other": "skipped (not here)"}
    assert "RuntimeError: CUDA error: illegal" in output


@pytest.mark.parametrize(
    ("others", "expected", "found", "verdict"),
    [(0.6, 0.6, 0.6, True), (0.6, 0.6, 0.5991, True), (0.6, 0.6, 0.598, False), (0.6, 0.5004, 0.4999, False),
     (0.4, 0.4, 0.4, False)],
    ids=["same", "within", "a probability", "a pixel of the mask", "empty masks, which say nothing"],
)  # fmt: skip
def test_what_counts_as_alike(gpu_check, others, expected, found, verdict):
    """100 pixels, of which one may differ."""
    maps = torch.full((2, 10, 10), others)
    maps[:, 0, 0] = torch.tensor([expected, found])
    assert gpu_check.alike("", maps[:1], maps[1:], "float32").verdict is verdict


@pytest.mark.slow
def test_on_the_cpu():
    finished = run("--device", "cpu", *SMALL)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    said = verdicts(finished.stdout)
    skipped = {name for name, verdict in said.items() if verdict.startswith("skipped")}
    assert skipped == {"too little for a batch", "too little for one input", "the notebook on every GPU"}
    assert {verdict for name, verdict in said.items() if name not in skipped} == {"ok"} and len(said) == 17


@pytest.mark.slow
def test_on_the_stand_in(gpu_check, monkeypatch, capsys):
    """All of it but Segment Anything's own code, which asks the driver; no bar, as nothing is faster there."""
    monkeypatch.setattr(gpu_check, "CHECKS", [each for each in gpu_check.CHECKS if each is not gpu_check.ensemble])
    monkeypatch.setattr(gpu_check, "SPEED_BAR", 0.0)
    with stand_in_gpu(monkeypatch, 2**26):  # slices at scale 2 have four times the pixels
        status = gpu_check.main(SMALL)
    output = capsys.readouterr().out
    assert status == 0, output
    said = verdicts(output)
    assert said.pop("the notebook on every GPU") == "skipped (1 GPU(s) here, two are needed)"
    assert set(said.values()) == {"ok"} and "too little for one input" in said
