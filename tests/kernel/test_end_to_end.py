"""The built notebook, executed without network: the bytes that would be pushed, on real and synthetic slices."""

import subprocess
import sys

import nbformat
import pandas as pd
import pytest

from sennet_kaggle.__main__ import main
from sennet_kaggle.kernel.dry_run import network_prefix, open_rehearsal_volumes, rehearse
from sennet_kaggle.submission.submission import read_submission, validate_submission


@pytest.mark.slow
def test_the_visible_test_folder(data_dir, tmp_path):
    """In Kaggle's new mount layout; test_push.py has the old one."""
    volumes = open_rehearsal_volumes(data_dir, (), tmp_path)
    submission_path, table, picture_path = rehearse(volumes, tmp_path / "out", "new")
    assert validate_submission(submission_path, volumes) == []
    ids = [slice_id for slice_id, _ in read_submission(submission_path)]
    assert ids == [f"kidney_{kidney}_{z:04d}" for kidney in (5, 6) for z in range(3)]
    assert table is None and picture_path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_held_out_slices_are_scored(data_dir, tmp_path, capfd):
    command = ["dry-run", "--data-dir", str(data_dir), "--volume", "kidney_2", "--output-dir", str(tmp_path)]
    assert main(command) == 0
    scores = pd.read_csv(tmp_path / "scores.csv", index_col="slice")
    assert list(scores.index) == ["kidney_2_0153", "kidney_2_0742", "mean", "pooled"]
    assert scores.loc["pooled", "vessel_px"] == 366 + 6745
    # The shipped model finds vessels of a kidney it has not seen: far above chance, which is 0.01 there.
    assert scores.loc["pooled", "dice"] > 0.4
    output = capfd.readouterr().out
    assert "kidney_2_0742" in output and str(tmp_path / "submission.csv") in output


@pytest.mark.slow
def test_without_data_a_phantom_is_used(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["dry-run", "--output-dir", "out"]) == 0
    scores = pd.read_csv(tmp_path / "out" / "scores.csv", index_col="slice")
    assert list(scores.index)[-3:] == ["phantom_0003", "mean", "pooled"]
    assert scores.loc["pooled", "dice"] > 0.2
    notebook = nbformat.read(tmp_path / "out" / "sennet.ipynb", as_version=4)
    kinds = [kind for output in notebook.cells[-1].outputs for kind in output.data]
    assert "text/html" in kinds and "image/png" in kinds  # the counts and the picture
    assert "text/markdown" not in kinds  # more slices than placeholders have
    said = {cell.id: cell.outputs for cell in notebook.cells if cell.get("outputs")}
    assert list(said) == ["check", "run", "result"]  # the sources say nothing
    log = "".join(output.text for output in said["run"] if output.name == "stdout")
    assert "model: unet-native.safetensors (" in log and "settings: views flips, axes z" in log and "{" not in log
    assert len(said["run"]) == 2  # what was printed, and the progress bar
    capfd.readouterr()


@pytest.mark.slow
def test_a_failing_notebook_is_one_line(tmp_path, write_kidney, capfd):
    write_kidney(tmp_path / "test" / "kidney_5", labels=False)
    path = tmp_path / "test" / "kidney_5" / "images" / "0001.tif"
    path.write_bytes(path.read_bytes()[:-9])
    assert main(["dry-run", "--data-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err
    assert "InputError" in error and "0001.tif is" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "submission.csv").exists()


def test_the_notebook_has_no_network():
    """What the prefix starts cannot reach anything; where it cannot be made the test says so."""
    if not network_prefix():
        pytest.skip("this system does not let us make a network namespace")
    program = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    result = subprocess.run(
        [*network_prefix(), sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "Network is unreachable" in result.stderr
