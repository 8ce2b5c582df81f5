"""Folders that one process at a time writes to; of an output's claim see also tests/training/test_train.py."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from sennet_kaggle import locking
from sennet_kaggle.errors import InputError, show_messages
from sennet_kaggle.locking import claim_dir, take_turns

HOLD = "import sys; from pathlib import Path; from sennet_kaggle.locking import take_turns\n"
HOLD += "with take_turns(Path(sys.argv[1])): print('in', flush=True); input()"


@pytest.mark.parametrize("ending", ["well", "killed", "with its folder"])
def test_a_process_that_waits_for_another_says_so(tmp_path, monkeypatch, ending):
    """The other ends, well or not, once the message is there; one that fails may remove the folder that it has made."""
    cache_dir = tmp_path / "cache"
    cache_dir.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", HOLD, str(cache_dir / "lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    monkeypatch.setattr(locking, "_SILENT_WAIT_SECONDS", 0.1)
    said = []
    with subprocess.Popen(command, env=environment, text=True, **pipes) as other:
        assert other.stdout.readline() == "in\n"

        def end(text):
            said.append(text)
            if ending == "with its folder":
                shutil.rmtree(cache_dir)
            other.communicate("\n") if ending == "well" else other.kill()

        show_messages(end)
        with take_turns(cache_dir / "lock"):
            assert cache_dir.is_dir() and said == [f"waiting for another process, which writes to {cache_dir}"]
            assert other.wait(20) == (0 if ending == "well" else -9)


def test_a_process_that_need_not_wait_says_nothing(tmp_path):
    said = []
    show_messages(said.append)
    for _ in range(2):
        with take_turns(tmp_path / "lock"):
            pass
    assert said == []


def test_a_failure_inside_lets_the_next_one_in(tmp_path):
    with pytest.raises(OSError, match="the block's own"), take_turns(tmp_path / "lock"):
        raise OSError("the block's own")
    with take_turns(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EIO])
def test_a_disk_without_locks_is_not_taken_for_another_process(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl", reason="this system has other locks")

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    message = f"{tmp_path}.* cannot be locked against other processes .*{os.strerror(number)}.*: choose a folder on an"
    with pytest.raises(InputError, match=message), take_turns(tmp_path / "lock"):
        pytest.fail("not locked")
    with pytest.raises(InputError, match=message), claim_dir(tmp_path / "out"):
        pytest.fail("not locked")


def test_a_lock_that_is_a_link_to_nowhere_is_one_line(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "no" / "where")
    with pytest.raises(InputError, match="cannot be locked"), take_turns(tmp_path / "lock"):
        pytest.fail("not locked")
