"""What a run needs, and whether the machine has it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sennet_kaggle import trial as trial_module
from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.faults import Faults
from sennet_kaggle.predict import create_predictor
from sennet_kaggle.steady import SteadyVolume, open_steady_volumes
from sennet_kaggle.trial import (
    Cost,
    Look,
    Memory,
    Trial,
    bound,
    machine_memory,
    no_trial,
    peak_ram,
    run_trial,
    shown_windows,
)


class First(nn.Module):
    def forward(self, tensor):
        return tensor[:, :1]


@pytest.fixture
def volume(tmp_path, write_kidney) -> SteadyVolume:
    """5 slices of 64 x 96."""
    write_kidney(tmp_path / "test" / "k", depth=5, size=(64, 96), labels=False)
    return open_steady_volumes(tmp_path, Faults(strict=True))[0]


def predictor(region):
    return create_predictor(First(), Preprocessing(region=region, roi_size=32), 0.5, Inference(device="cpu"))


def test_windows_that_a_model_is_shown():
    whole, windows = predictor("whole"), predictor("windows")
    assert shown_windows(whole, Inference(), 64, 96) == (1, 32**2)
    assert shown_windows(windows, Inference(overlap=0), 64, 96) == (6, 32**2)
    assert shown_windows(windows, Inference(overlap=0), 65, 96) == (9, 32**2)


def trial_of(*costs: Cost, **looks: Look) -> Trial:
    return Trial(costs, looks, 10**9, 10**8, 0)


def test_seconds_of_a_run(volume):
    """5 slices, each 1 s for a view of a whole one in a batch of 1, or 6 s in windows."""
    members = [predictor("whole"), predictor("windows")]
    trial = trial_of(Cost(1 / 32**2, 1), Cost(1 / 32**2, 1))
    assert trial.seconds(volume, members[:1], Inference(), 5) == pytest.approx(5)
    assert trial.seconds(volume, members, Inference(overlap=0, tta="flips"), 2) == pytest.approx(4 * (2 + 2 * 6))
    # Along three axes a whole plane costs the same; windows of the short axis are filled up to 32.
    zyx = Inference(axes="zyx", overlap=0)
    assert trial.seconds(volume, members[:1], zyx, 5) == pytest.approx(5 + 64 + 96)
    assert trial.seconds(volume, members, zyx, 1) == pytest.approx(165 + 5 * 6 + 64 * 3 + 96 * 2)


def test_a_batch_that_is_not_full_costs_as_much(volume):
    trial = trial_of(Cost(1 / 32**2, 4))
    assert trial.seconds(volume, [predictor("whole")], Inference(), 5) == pytest.approx(8)
    assert trial.slices_at_once(volume, [predictor("whole")], Inference()) == 4
    assert trial.seconds(volume, [predictor("windows")], Inference(overlap=0), 1) == pytest.approx(8)
    assert trial.slices_at_once(volume, [predictor("windows")], Inference(overlap=0)) == 1


def test_what_a_kidney_costs_beside_its_models(volume):
    """Reading is not multiplied by views or models; background is not shown; a GPU works while the CPU reads."""
    trial = trial_of(Cost(1 / 32**2, 1), Cost(1 / 32**2, 1), k=Look(10.0, 2.0, 1.0, (1.0, 0.5)))
    members = [predictor("whole"), predictor("windows")]
    inference = Inference(overlap=0, tta="flips")
    assert trial.seconds(volume, members, inference, 5) == pytest.approx(5 * (2 + 1) + 4 * (5 + 15))
    on_gpu = [replace(member, device=torch.device("cuda")) for member in members]
    assert trial.seconds(volume, on_gpu, inference, 5) == pytest.approx(4 * (5 + 15))
    slow = trial_of(Cost(1e-9, 1), Cost(1e-9, 1), k=Look(10.0, 2.0, 1.0, (1.0, 0.5)))
    assert slow.seconds(volume, on_gpu, inference, 5) == pytest.approx(5 * (2 + 1), rel=1e-3)
    assert trial.seconds(volume, members[:1], Inference(axes="zyx"), 1) == pytest.approx(5 * (2 + 3 * 1) + 165)
    assert trial.seconds_to_start(volume) == 10


def test_the_trial_measures_every_model(volume):
    predictors = [predictor("whole"), predictor("windows")]
    trial = run_trial([volume], predictors, Inference(device="cpu"))
    assert len(trial.costs) == 2 and all(cost.seconds_per_pixel > 0 and cost.at_once >= 1 for cost in trial.costs)
    assert 0 <= trial.ram_growth < trial.ram <= peak_ram() and trial.gpu == 0
    look = trial.looks["k"]
    assert min(look.start, look.read, look.prepare) > 0 and look.occupied == (1.0, 1.0)
    assert trial.seconds(volume, predictors, Inference(), 5) > 0


def test_a_kidney_that_cannot_be_read_is_left_out(volume, write_kidney, tmp_path):
    write_kidney(tmp_path / "other" / "test" / "large", depth=2, size=(80, 96), labels=False)
    (large,) = open_steady_volumes(tmp_path / "other", Faults(strict=False))
    for path in large.image_paths:
        path.write_bytes(path.read_bytes()[:-10])
    trial = run_trial([volume, large], [predictor("whole")], Inference(device="cpu"))
    assert [*trial.looks] == ["k"] and trial.costs[0].seconds_per_pixel > 1e-11
    assert trial.seconds(large, [predictor("whole")], Inference(), 2) >= 0


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("region", ["whole", "windows"])
def test_the_trial_fills_every_lane_and_no_more(volume, region, batch):
    shown = []
    seeing = replace(predictor(region), lanes=3)
    seeing.model.register_forward_hook(lambda model, inputs, _: shown.append(inputs[0]))
    inference = Inference(device="cpu", overlap=0, batch_size=batch, sw_batch_size=batch)
    assert run_trial([volume], [seeing], inference).costs[0].at_once == 3 * batch
    assert [len(each) for each in shown] == [batch] * 3


def test_without_a_trial_what_is_dropped_first_is_known_all_the_same(volume):
    members = [replace(predictor("whole"), lanes=2), predictor("windows")]
    nothing = no_trial(members, Inference(batch_size=3))
    assert nothing.slices_at_once(volume, members, Inference()) == 6
    assert (
        0
        < 2 * nothing.seconds(volume, members, Inference(), 6)
        < nothing.seconds(volume, members, Inference(tta="flips"), 6)
    )


def test_scratch_is_for_three_axes_only(volume):
    trial = trial_of(Cost(1.0, 1))
    assert bound(trial, [volume], Inference()).scratch == 0
    assert bound(trial, [volume], Inference(axes="zyx")).scratch == 4 * 5 * 64 * 96
    assert bound(trial, [volume], Inference(axes="zyx")).ram > bound(trial, [volume], Inference()).ram > 10**9


@pytest.mark.parametrize("place", [0, 1])
def test_a_container_may_have_less_than_its_machine(tmp_path, monkeypatch, place):
    paths = [tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"]
    monkeypatch.setattr(trial_module, "_LIMIT_PATHS", paths)
    machine = machine_memory([predictor("whole")], Inference()).ram
    paths[place].write_text("1000000000\n")
    assert machine_memory([predictor("whole")], Inference()).ram == 10**9 < machine
    assert machine_memory([predictor("whole")], Inference(), processes=2).ram == 5 * 10**8
    paths[place].write_text("max\n")
    assert machine_memory([predictor("whole")], Inference()).ram > 10**9


def test_the_peak_is_what_the_system_says():
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    assert peak_ram() == pytest.approx(1024 * int(fields["VmHWM"].split()[0]), rel=0.1)


def test_processes_share_a_machine():
    alone, one_of_four = (machine_memory([predictor("whole")], Inference(), count) for count in (1, 4))
    assert one_of_four.ram < 0.5 * alone.ram and one_of_four.scratch < 0.5 * alone.scratch


def test_what_is_lacking():
    machine = machine_memory([predictor("whole")], Inference())
    assert machine.ram > peak_ram() and machine.gpu == 0
    assert Memory(1, 0, 1).lacking(machine) == []
    assert Memory(10**18, 1, 10**18).lacking(machine) == ["ram", "gpu", "scratch"]
