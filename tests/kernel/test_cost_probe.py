"""What a run needs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.inference.loading import create_predictor
from sennet_kaggle.kernel.cost_probe import (
    Costs,
    ModelCost,
    VolumeCost,
    bound,
    probe_costs,
    shown_windows,
    unknown_costs,
)
from sennet_kaggle.kernel.fault_tolerant_volume import FaultTolerantVolume, open_fault_tolerant_volumes
from sennet_kaggle.kernel.faults import Faults
from sennet_kaggle.kernel.memory import peak_ram


class First(nn.Module):
    def forward(self, tensor):
        return tensor[:, :1]


@pytest.fixture
def volume(tmp_path, write_kidney) -> FaultTolerantVolume:
    """5 slices of 64 x 96."""
    write_kidney(tmp_path / "test" / "k", depth=5, size=(64, 96), labels=False)
    return open_fault_tolerant_volumes(tmp_path, Faults(strict=True))[0]


def predictor(region):
    return create_predictor(First(), Preprocessing(region=region, roi_size=32), 0.5, Inference(device="cpu"))


def test_windows_that_a_model_is_shown():
    whole, windows = predictor("whole"), predictor("windows")
    assert shown_windows(whole, Inference(), 64, 96) == (1, 32**2)
    assert shown_windows(windows, Inference(overlap=0), 64, 96) == (6, 32**2)
    assert shown_windows(windows, Inference(overlap=0), 65, 96) == (9, 32**2)


def costs_of(*costs: ModelCost, **volume_costs: VolumeCost) -> Costs:
    return Costs(costs, volume_costs, 10**9, 10**8, 0)


def test_seconds_of_a_run(volume):
    """5 slices, each 1 s for a view of a whole one in a batch of 1, or 6 s in windows."""
    members = [predictor("whole"), predictor("windows")]
    costs = costs_of(ModelCost(1 / 32**2, 1), ModelCost(1 / 32**2, 1))
    assert costs.seconds(volume, members[:1], Inference(), 5) == pytest.approx(5)
    assert costs.seconds(volume, members, Inference(overlap=0, tta="flips"), 2) == pytest.approx(4 * (2 + 2 * 6))
    # Along three axes a whole plane costs the same; windows of the short axis are filled up to 32.
    zyx = Inference(axes="zyx", overlap=0)
    assert costs.seconds(volume, members[:1], zyx, 5) == pytest.approx(5 + 64 + 96)
    assert costs.seconds(volume, members, zyx, 1) == pytest.approx(165 + 5 * 6 + 64 * 3 + 96 * 2)


def test_seconds_of_several_scales(volume):
    """4 views of 6, 24 and 2 windows of 32 x 32; a model of whole slices sees them once."""
    members = [predictor("whole"), predictor("windows")]
    costs = costs_of(ModelCost(1 / 32**2, 1))
    inference = Inference(overlap=0, tta="flips", extra_scales=(2.0, 0.5))
    assert costs.seconds(volume, members[1:], inference, 5) == pytest.approx(4 * 5 * (6 + 24 + 2))
    assert costs.seconds(volume, members[:1], inference, 5) == pytest.approx(4 * 5)


def test_a_batch_that_is_not_full_costs_as_much(volume):
    costs = costs_of(ModelCost(1 / 32**2, 4))
    assert costs.seconds(volume, [predictor("whole")], Inference(), 5) == pytest.approx(8)
    assert costs.slices_at_once(volume, [predictor("whole")], Inference()) == 4
    assert costs.seconds(volume, [predictor("windows")], Inference(overlap=0), 1) == pytest.approx(8)
    assert costs.slices_at_once(volume, [predictor("windows")], Inference(overlap=0)) == 1


def test_what_a_kidney_costs_beside_its_models(volume):
    """Reading is not multiplied by views or models; background is not shown; a GPU works while the CPU reads."""
    costs = costs_of(ModelCost(1 / 32**2, 1), ModelCost(1 / 32**2, 1), k=VolumeCost(10.0, 2.0, 1.0, (1.0, 0.5)))
    members = [predictor("whole"), predictor("windows")]
    inference = Inference(overlap=0, tta="flips")
    assert costs.seconds(volume, members, inference, 5) == pytest.approx(5 * (2 + 1) + 4 * (5 + 15))
    on_gpu = [replace(member, device=torch.device("cuda")) for member in members]
    assert costs.seconds(volume, on_gpu, inference, 5) == pytest.approx(4 * (5 + 15))
    slow = costs_of(ModelCost(1e-9, 1), ModelCost(1e-9, 1), k=VolumeCost(10.0, 2.0, 1.0, (1.0, 0.5)))
    assert slow.seconds(volume, on_gpu, inference, 5) == pytest.approx(5 * (2 + 1), rel=1e-3)
    assert costs.seconds(volume, members[:1], Inference(axes="zyx"), 1) == pytest.approx(5 * (2 + 3 * 1) + 165)
    assert costs.seconds_to_start(volume) == 10


def test_the_probe_measures_every_model(volume):
    predictors = [predictor("whole"), predictor("windows")]
    costs = probe_costs([volume], predictors, Inference(device="cpu"))
    assert len(costs.models) == 2 and all(cost.seconds_per_pixel > 0 and cost.at_once >= 1 for cost in costs.models)
    assert 0 <= costs.ram_growth < costs.ram <= peak_ram() and costs.gpu == 0
    look = costs.volumes["k"]
    assert min(look.start, look.read, look.prepare) > 0 and look.occupied == (1.0, 1.0)
    assert costs.seconds(volume, predictors, Inference(), 5) > 0


def test_a_kidney_that_cannot_be_read_is_left_out(volume, write_kidney, tmp_path):
    write_kidney(tmp_path / "other" / "test" / "large", depth=2, size=(80, 96), labels=False)
    (large,) = open_fault_tolerant_volumes(tmp_path / "other", Faults(strict=False))
    for path in large.image_paths:
        path.write_bytes(path.read_bytes()[:-10])
    costs = probe_costs([volume, large], [predictor("whole")], Inference(device="cpu"))
    assert [*costs.volumes] == ["k"] and costs.models[0].seconds_per_pixel > 1e-11
    assert costs.seconds(large, [predictor("whole")], Inference(), 2) >= 0


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("region", ["whole", "windows"])
def test_the_probe_fills_every_thread_and_no_more(volume, region, batch):
    shown = []
    seeing = replace(predictor(region), threads=3)
    seeing.model.register_forward_hook(lambda model, inputs, _: shown.append(inputs[0]))
    inference = Inference(device="cpu", overlap=0, batch_size=batch, sw_batch_size=batch)
    assert probe_costs([volume], [seeing], inference).models[0].at_once == 3 * batch
    assert len(shown) % 3 == 0 and {len(each) for each in shown} == {batch}


def test_without_a_probe_what_is_dropped_first_is_known_all_the_same(volume):
    members = [replace(predictor("whole"), threads=2), predictor("windows")]
    nothing = unknown_costs(members, Inference(batch_size=3))
    assert nothing.slices_at_once(volume, members, Inference()) == 6
    assert (
        0
        < 2 * nothing.seconds(volume, members, Inference(), 6)
        < nothing.seconds(volume, members, Inference(tta="flips"), 6)
    )


def test_scratch_is_for_three_axes_only(volume):
    costs = costs_of(ModelCost(1.0, 1))
    assert bound(costs, [volume], Inference()).scratch == 0
    assert bound(costs, [volume], Inference(axes="zyx")).scratch == 4 * 5 * 64 * 96
    assert bound(costs, [volume], Inference(axes="zyx")).ram > bound(costs, [volume], Inference()).ram > 10**9


def test_a_gpu_is_thought_to_take_the_largest_batch_until_it_is_known():
    on_gpu = replace(predictor("whole"), device=torch.device("cuda"), threads=1)
    assert unknown_costs([on_gpu], Inference()).models[0].at_once == 16
    assert unknown_costs([on_gpu], Inference(batch_size=2)).models[0].at_once == 2


def test_segment_anything_is_shown_one_slice(volume):
    class Segmenting(nn.Module):
        def segment(self, image):
            return np.zeros(image.shape[:2], bool)

    sam = replace(predictor("whole"), model=Segmenting(), threads=4)
    costs = probe_costs([volume], [sam], Inference(device="cpu"))
    assert costs.models[0].at_once == 1 and costs.volumes["k"].occupied == (1.0,)
