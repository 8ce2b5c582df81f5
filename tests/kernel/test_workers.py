"""Other processes: what is known of how they end, and that none is waited for without end."""

import math
import os
import signal
import time

import pytest

from sennet_kaggle.errors import InputError
from sennet_kaggle.kernel import workers
from sennet_kaggle.kernel.faults import Faults
from sennet_kaggle.kernel.workers import Worker, start_workers, wait_for_workers

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def quick_start(monkeypatch):
    monkeypatch.setattr(workers, "_START_METHOD", "fork")


def work_well(go_on):
    go_on()


def work_for_ever(go_on, path=None):
    if path:
        path.write_text(str(os.getpid()))
    while True:
        go_on()
        time.sleep(0.01)


def hang(go_on):
    go_on()
    time.sleep(1000)


def fail(go_on):
    raise ValueError("no such\nmodel")


def refuse(go_on):
    raise InputError("no model")


def die(go_on):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("device", "gpus", "found"),
    [
        ("auto", 2, ["cuda:0", "cuda:1"]),
        ("auto", 1, ["auto"]),
        ("auto", 0, ["auto"]),
        ("cuda:1", 2, ["cuda:1"]),
        ("cpu", 2, ["cpu"]),
    ],
)
def test_every_gpu_works_unless_one_is_named(monkeypatch, device, gpus, found):
    monkeypatch.setattr(workers.torch.cuda, "device_count", lambda: gpus)
    assert workers.find_devices(device) == found


def test_how_processes_end(capfd):
    works = [(work_well,), (fail,), (refuse,), (die,)]
    started = start_workers(lambda go_on, work: work(go_on), works, Faults(strict=True))
    ends = [None, "ValueError: no such model", "no model", "ended with exit code -9"]
    assert wait_for_workers(started, math.inf) == ends
    said = capfd.readouterr().err
    assert said.count("Traceback") == 1 and "no such" in said  # of what nobody has foreseen


def test_one_that_hangs_is_ended():
    (worker,) = start_workers(hang, [()], Faults(strict=True))
    assert wait_for_workers([worker], math.inf, patience=0.3) == ["has not got further for 0.3 s"]
    assert not worker.is_running()


def test_one_that_gets_further_is_waited_for_until_the_deadline():
    (worker,) = start_workers(work_for_ever, [()], Faults(strict=True))
    started = time.monotonic()
    assert wait_for_workers([worker], started + 1.5, patience=0.5) == ["was not ready in time"]
    assert time.monotonic() - started >= 1.5 and not worker.is_running()


def test_one_that_cannot_be_started_leaves_the_others(monkeypatch):
    made = []

    def make(work, arguments):
        if made:
            raise OSError(11, "Resource temporarily unavailable")
        made.append(Worker(work, arguments))
        return made[0]

    monkeypatch.setattr(workers, "Worker", make)
    faults = Faults(strict=False, say=lambda _: None)
    assert start_workers(work_well, [(), (), ()], faults) == made
    assert "1 of 3 workers work" in str(faults)
    assert wait_for_workers(made, math.inf) == [None]


def test_when_the_first_process_is_killed_the_others_end(tmp_path):
    """They would go on writing to a journal that the next run begins with."""
    path = tmp_path / "pid"
    first = os.fork()
    if first == 0:
        Worker(work_for_ever, (path,))
        time.sleep(1000)
    process_id = int(wait_for(path.read_text, path.exists))
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    wait_for(lambda: None, lambda: not is_running(process_id))


def wait_for(result, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (condition() and (value := result()) != ""):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def is_running(process_id: int) -> bool:
    try:
        with open(f"/proc/{process_id}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
