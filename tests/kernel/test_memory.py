"""What memory the machine has."""

import pytest
from torch import nn

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.inference.loading import create_predictor
from sennet_kaggle.kernel import memory as memory_module
from sennet_kaggle.kernel.faults import Faults
from sennet_kaggle.kernel.memory import Memory, fit_inference, machine_memory, peak_ram

PREDICTORS = [create_predictor(nn.Identity(), Preprocessing(region="whole"), 0.5, Inference(device="cpu"))]


@pytest.mark.parametrize("place", [0, 1])
def test_a_container_may_have_less_than_its_machine(tmp_path, monkeypatch, place):
    paths = [tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"]
    monkeypatch.setattr(memory_module, "_LIMIT_PATHS", paths)
    machine = machine_memory(PREDICTORS, Inference()).ram
    paths[place].write_text("1000000000\n")
    assert machine_memory(PREDICTORS, Inference()).ram == 10**9 < machine
    assert machine_memory(PREDICTORS, Inference(), processes=2).ram == 5 * 10**8
    paths[place].write_text("max\n")
    assert machine_memory(PREDICTORS, Inference()).ram > 10**9


def test_the_peak_is_what_the_system_says():
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    assert peak_ram() == pytest.approx(1024 * int(fields["VmHWM"].split()[0]), rel=0.1)


def test_memory_that_is_free_counts():
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":") for line in file)
    free = 1024 * int(fields["MemAvailable"].split()[0])
    assert machine_memory(PREDICTORS, Inference()).ram > 0.8 * free


def test_processes_share_a_machine():
    alone, one_of_four = (machine_memory(PREDICTORS, Inference(), count) for count in (1, 4))
    assert one_of_four.ram < 0.5 * alone.ram and one_of_four.scratch < 0.5 * alone.scratch


def test_what_is_lacking():
    machine = machine_memory(PREDICTORS, Inference())
    assert machine.ram > peak_ram() and machine.gpu == 0
    assert Memory(1, 0, 1).lacking(machine) == []
    assert Memory(10**18, 1, 10**18).lacking(machine) == ["ram", "gpu", "scratch"]


def test_settings_give_way_to_a_lack_of_memory():
    inference, faults = Inference(axes="zyx", batch_size=4), Faults(strict=False)
    assert fit_inference(inference, Memory(2, 0, 3), Memory(2, 0, 3), faults) is inference and not faults.noted
    along_z = fit_inference(inference, Memory(2, 0, 3), Memory(2, 0, 2), faults)
    assert (along_z.axes, along_z.batch_size) == ("z", 4)
    small = fit_inference(inference, Memory(3, 0, 3), Memory(2, 0, 3), faults)
    assert (small.axes, small.batch_size, small.sw_batch_size) == ("z", 1, 1) and len(faults.noted) == 2
