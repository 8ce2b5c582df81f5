"""What a run needs, and whether the machine has it."""

from dataclasses import replace

import pytest
from torch import nn

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.faults import Faults
from sennet_kaggle.predict import create_predictor
from sennet_kaggle.steady import SteadyVolume, open_steady_volumes
from sennet_kaggle.trial import Memory, Trial, axes_factor, bound, machine_memory, peak_ram, run_trial, shown_pixels


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


def test_pixels_that_a_model_is_shown():
    whole, windows = predictor("whole"), predictor("windows")
    assert shown_pixels(whole, Inference(), 64, 96) == 32**2
    assert shown_pixels(windows, Inference(overlap=0), 64, 96) == 64 * 96
    assert shown_pixels(windows, Inference(overlap=0), 65, 96) == 3 * 3 * 32**2


def test_three_axes_in_passes_along_z(volume):
    """A whole plane costs the same along every axis; windows of the short axis are padded to 32."""
    inference = Inference(axes="zyx", overlap=0)
    assert axes_factor(volume, [predictor("whole")], inference) == (5 + 64 + 96) / 5
    assert axes_factor(volume, [predictor("windows")], inference) == 1 + 2 * 32 / 5


def test_the_trial_measures_every_model(volume):
    predictors = [predictor("whole"), predictor("windows")]
    trial = run_trial(volume, predictors, Inference(device="cpu"))
    assert len(trial.seconds_per_pixel) == 2 and min(trial.seconds_per_pixel) > 0
    assert 0 <= trial.ram_growth < trial.ram <= peak_ram() and trial.gpu == 0
    assert len(trial.seconds_per_pass(volume, predictors, Inference())) == 2


@pytest.mark.parametrize("region", ["whole", "windows"])
def test_the_trial_fills_every_lane(volume, region):
    shown = []
    seeing = replace(predictor(region), lanes=3)
    seeing.model.register_forward_hook(lambda model, inputs, _: shown.append(inputs[0]))
    run_trial(volume, [seeing], Inference(device="cpu", overlap=0))
    assert len(shown) == 3 * (1 if region == "whole" else 6)


def test_scratch_is_for_three_axes_only(volume):
    trial = Trial((1.0,), 10**9, 10**8, 0)
    assert bound(trial, [volume], Inference()).scratch == 0
    assert bound(trial, [volume], Inference(axes="zyx")).scratch == 4 * 5 * 64 * 96
    assert bound(trial, [volume], Inference(axes="zyx")).ram > bound(trial, [volume], Inference()).ram > 10**9


def test_what_is_lacking():
    machine = machine_memory([predictor("whole")], Inference())
    assert machine.ram > peak_ram() and machine.gpu == 0
    assert Memory(1, 0, 1).lacking(machine) == []
    assert Memory(10**18, 1, 10**18).lacking(machine) == ["ram", "gpu", "scratch"]
