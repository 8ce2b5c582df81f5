"""How a command ends: by a signal, a reader that has gone, a console of another encoding, a package that is missing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from conftest import REPOSITORY
from input_cases import PREDICT, TRAIN

from sennet_kaggle.__main__ import main
from sennet_kaggle.cli.console import Stopped, run_command
from sennet_kaggle.errors import InputError
from sennet_kaggle.kernel.notebook import execute_notebook

COMMAND = [sys.executable, "-m", "sennet_kaggle"]


def start(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # nohup has the one ignored, a shell's background the other, and children inherit that.
    heeded = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        return subprocess.Popen([*COMMAND, *arguments], cwd=cwd, env=environment, **pipes)
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


def stop_once(process: subprocess.Popen, said: bytes, number: signal.Signals) -> str:
    """Sends a signal when a text has been said; what is said after it."""
    heard = b""
    while said not in heard:
        more = os.read(process.stderr.fileno(), 4096)
        assert more, heard.decode()
        heard += more
    time.sleep(0.3)  # tqdm itself complains of a signal while its bar is being made
    process.send_signal(number)
    return process.communicate(timeout=60)[1].decode()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stopped_phantom_leaves_nothing(tmp_path, number, status):
    process = start("phantom", "new/folder", "--shape", "2000", "256", "256", cwd=tmp_path)
    error = stop_once(process, b" 0/2000", number)
    assert process.returncode == status
    assert error.splitlines()[-1] == "stopped" and "Traceback" not in error
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["z", "zyx"])
def test_a_stopped_prediction_leaves_nothing(tmp_path, axes):
    assert main(["phantom", str(tmp_path / "d"), "--name", "k", "--shape", "40", "400", "400", "--split", "test"]) == 0
    (tmp_path / "scratch").mkdir()
    command = f"predict --data-dir d --output o.csv --save-probability kept --axes {axes} --scratch-dir scratch"
    process = start(*command.split(), cwd=tmp_path)
    error = stop_once(process, b"along z" if axes == "zyx" else b"k]", signal.SIGTERM)
    assert process.returncode == 143 and "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "scratch"]
    assert not any((tmp_path / "scratch").iterdir())


@pytest.mark.slow
def test_a_stopped_training_ends_its_workers(tmp_path, write_kidney):
    write_kidney(tmp_path / "data" / "train" / "kidney_1")
    process = start(*TRAIN.split(), "--epochs", "9999", "--workers", "2", "--roi-size", "32", cwd=tmp_path)
    reader = threading.Thread(target=process.stdout.read)
    reader.start()
    error = stop_once(process, b", loss ", signal.SIGTERM)
    reader.join(60)  # the workers hold the pipe too, so that its end is also theirs
    assert not reader.is_alive()
    assert process.returncode == 143 and "Traceback" not in error
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_an_error_after_the_signal_is_not_shown(capsys):
    def command():
        try:
            raise Stopped(signal.SIGTERM)
        finally:
            raise RuntimeError("a worker has died")

    assert run_command(command) == 143
    assert capsys.readouterr().err == "stopped\n"


def test_handlers_are_put_back_and_those_of_others_left(capsys):
    def other(number, frame):
        pass

    found = []
    before = signal.signal(signal.SIGHUP, other)
    try:
        assert run_command(lambda: found.append(signal.getsignal(signal.SIGHUP))) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert found == [other]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_thread_can_run_a_command(capsys):
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(main(["experiments"])))
    thread.start()
    thread.join()
    assert statuses == [0]


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["experiments"]])
def test_a_reader_that_has_gone_is_no_error(arguments, tmp_path):
    process = start(*arguments, cwd=tmp_path)
    process.stdout.close()
    error = process.stderr.read().decode()
    assert (process.wait(60), error) == (141, "")


def test_a_broken_pipe_of_another_kind_stays_an_error():
    def command():
        raise BrokenPipeError("a worker's")

    with pytest.raises(BrokenPipeError):
        run_command(command)


def test_output_to_a_full_disk_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*COMMAND, "experiments"], cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 2
    assert result.stderr.startswith("error: cannot write the output: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_error(closed, tmp_path):
    command = f"{sys.executable} -m sennet_kaggle phantom new --shape 1 64 64 {closed}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert result.returncode == 0 and b"Traceback" not in result.stderr
    assert len(list(tmp_path.rglob("*.tif"))) == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_every_console_can_show_the_help(encoding, tmp_path):
    process = start("--help", cwd=tmp_path, PYTHONIOENCODING=encoding)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 0 and not error
    assert ("predict …" if encoding in ("cp1252", "utf-8") else "predict ...") in output.decode(encoding)


@pytest.mark.parametrize("name", ["né…", os.fsdecode(b"n\xff")], ids=["accents", "not UTF-8"])
def test_every_path_can_be_shown(name, tmp_path):
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*COMMAND, "validate", "--submission", "s.csv", "--data-dir", name]
    result = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith(b"error: n\\") and result.stderr.isascii() and result.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("module", "arguments", "says"),
    [
        ("nbclient", "dry-run --output-dir new", "pip install nbclient, or -r requirements-dev.txt"),
        ("timm", "pack --model timm_unet --weights-path w --output new", "needs the package timm, which is not"),
        ("segment_anything", "pack --model sam --weights-path w --output new", "needs the package segment-anything,"),
        ("transformers", "pack --model segformer --weights-path w --output new", "needs the package transformers,"),
    ],
)
def test_a_missing_package_is_named(module, arguments, says, tmp_path, monkeypatch, capsys):
    (tmp_path / "w").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: this needs the package ") and says in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("others", ["", "sys.modules['numpy'] = None; "])
def test_without_the_package_of_the_command_line_there_is_one_line(others):
    program = f"import sys; {others}sys.modules['tyro'] = None; import sennet_kaggle.__main__"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr == (
        "error: this needs the package tyro, which is not installed: pip install tyro, or -r requirements.txt\n"
    )


def test_a_module_of_our_own_that_is_missing_is_a_bug():
    def command():
        raise ModuleNotFoundError("No module named 'sennet_kaggle.nothing'", name="sennet_kaggle.nothing")

    with pytest.raises(ModuleNotFoundError):
        run_command(command)


def test_training_goes_on_without_tensorboard(tmp_path, write_kidney, monkeypatch, capsys):
    write_kidney(tmp_path / "data" / "train" / "kidney_1")
    monkeypatch.chdir(tmp_path)
    for module in ("train", "accelerator"):
        monkeypatch.setattr(f"sennet_kaggle.training.{module}.is_tensorboard_available", lambda: False)
    settings = ["--model-arguments", '{"widths": [4], "bottleneck": 4}', "--roi-size", "32", "--epochs", "1"]
    assert main([*TRAIN.split(), *settings, "--workers", "0"]) == 0
    assert "warning: no TensorBoard events are written: pip install tensorboard" in capsys.readouterr().err
    assert (tmp_path / "out" / "checkpoint.safetensors").is_file() and not (tmp_path / "out" / "tensorboard").exists()


def test_what_no_user_may_open_is_one_line(capsys):
    def command():
        raise PermissionError(13, "Permission denied", "data/train")

    assert run_command(command) == 2
    assert capsys.readouterr().err.startswith("error: cannot open data/train (Permission denied)")


def test_an_input_error_is_its_line(capsys):
    def command():
        raise InputError("expected this, found that: do so")

    assert run_command(command) == 2
    assert capsys.readouterr().err == "error: expected this, found that: do so\n"


def test_predict_over_its_own_input_keeps_it(tmp_path, write_kidney, monkeypatch, capsys):
    """Under another name of the same file, too."""
    write_kidney(tmp_path / "data" / "test" / "kidney_5", labels=False)
    monkeypatch.chdir(tmp_path)
    slice_path = tmp_path / "data" / "test" / "kidney_5" / "images" / "0000.tif"
    (tmp_path / "link.csv").symlink_to(slice_path)
    before = slice_path.read_bytes()
    assert main(PREDICT.replace("out.csv", "link.csv").replace("small.safetensors", str(slice_path)).split()) == 2
    assert slice_path.read_bytes() == before
    capsys.readouterr()


def test_what_a_notebook_prints_can_be_shown_by_every_console(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print('caf\\u00e9 \\u2026')")])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    program = str(REPOSITORY / "sennet_kaggle" / "kernel" / "notebook.py")
    command = [sys.executable, "-P", program, "in.ipynb", "out.ipynb", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "caf\\xe9 \\u2026\n")


def test_a_progress_bar_is_one_output_of_the_saved_notebook(tmp_path):
    lines = [
        "import sys",
        "for at in range(5):",
        "    print(f'\\r{at} of 4', end='', file=sys.stderr, flush=True)",
        "    print(at)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("\n".join(lines))])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", tmp_path)
    (cell,) = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert {output.name: output.text for output in cell.outputs} == {"stdout": "0\n1\n2\n3\n4\n", "stderr": "4 of 4"}
