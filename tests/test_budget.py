"""The clock: what is dropped, in which order, and that every slice still gets a pass. Time is counted in passes."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fault_table import Bench, build_bench, copy_bench, read_rows

from sennet_kaggle import budget, predict, segmenter, trial
from sennet_kaggle.budget import Budget, Pace, ladder
from sennet_kaggle.config import Inference
from sennet_kaggle.kernel import run_kernel
from sennet_kaggle.models.unet import UNet
from sennet_kaggle.rle import EMPTY_RLE


class Clock:
    """Time that passes when a model is shown something: a second per slice and view."""

    def __init__(self):
        self.now, self.seconds_per_slice = 0.0, 1.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()

    def slow(self, tensor):
        clock.now += clock.seconds_per_slice * len(tensor)
        return tensor[:, :1]

    monkeypatch.setattr(UNet, "forward", slow)
    monkeypatch.setattr(predict, "work_ahead", lambda items, ahead: iter(items))  # else passes run before their turn
    for module in (budget, segmenter, trial):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture(scope="module")
def original(tmp_path_factory, one_thread) -> Bench:
    """Kidneys of 12 and 5 slices, two models."""
    return build_bench(tmp_path_factory.mktemp("original"))


@pytest.fixture
def bench(original, tmp_path) -> Bench:
    return copy_bench(original, tmp_path / "copy")


def run(bench: Bench, seconds: float, **inference) -> None:
    settings = replace(bench.settings.inference, batch_size=1, **inference)  # no batch is filled up
    run_kernel(replace(bench.settings, inference=settings, time_budget_hours=seconds / 3600))


def test_the_ladder_has_the_stated_order():
    plans = ladder(Inference(tta="d4", axes="zyx"), 3)
    assert [(plan.inference.tta, plan.inference.axes, plan.members) for plan in plans] == [
        ("d4", "zyx", 3), ("flips", "zyx", 3), ("none", "zyx", 3), ("none", "z", 3), ("none", "z", 2), ("none", "z", 1),
    ]  # fmt: skip
    assert [str(plan) for plan in ladder(Inference(), 1)] == ["tta none, axes z, 1 model(s)"]


def test_the_pace_is_that_of_the_trial_until_the_run_knows_better():
    plans = ladder(Inference(tta="flips", axes="zyx"), 2)
    pace = Pace([1.0, 3.0], along_all=3.5)
    assert [pace.seconds(plan) for plan in plans] == [4 * 3.5 * 4, 3.5 * 4, 4, 1]
    assert pace.choose(plans, 100) is plans[0]
    assert pace.choose(plans, 20) is plans[1]
    assert pace.choose(plans, 0.1) is plans[-1]
    pace.learn(plans[2], 8)
    assert [pace.seconds(plan) for plan in plans] == [8 * 3.5 * 4, 2 * 3.5 * 4, 8, 2]


def test_a_share_leaves_time_for_the_end(clock):
    assert Budget(None).share(0.1) == math.inf and not Budget(None)
    limited = Budget(1000)
    assert limited and limited.share(1) == 950  # a twentieth is kept back …
    assert Budget(36000).share(1) == 36000 - 120  # … two minutes at most
    clock.now = 450
    assert limited.share(0.5) == 450 + 250


@pytest.mark.parametrize(
    ("seconds", "tta", "dropped"),
    [
        # All of it is 337 planes along three axes, 4 or 8 views, 2 models, and 2 slices for the trial.
        pytest.param(3600, "flips", [], id="enough"),
        pytest.param(3600, "d4", ["tta flips, axes zyx, 2"], id="tta in part"),
        pytest.param(1000, "d4", ["tta none, axes zyx, 2"], id="tta"),
        pytest.param(200, "d4", ["tta none, axes z, 2"], id="axes"),
        pytest.param(34, "d4", ["tta none, axes z, 1"], id="a model"),
    ],
)
def test_a_budget_too_small_for_its_settings(bench, clock, capsys, seconds, tta, dropped):
    run(bench, seconds, tta=tta, axes="zyx")
    said = capsys.readouterr().out
    assert clock.now <= seconds
    assert len(read_rows(bench)) == 17 and "no faults" in said  # a slice without a pass would be one
    assert ("dropped for lack of time" in said) == bool(dropped)
    assert all(f"kidney_5 from kidney_5_0000 on: {words}" in said for words in dropped)


def test_a_run_that_slows_down_drops_views_on_the_way(bench, clock, monkeypatch, capsys):
    add, added = segmenter.Rows.add, []

    def slower_from_the_third(self, *arguments, **keywords):
        added.append(clock.now)
        clock.seconds_per_slice = 1.0 if len(added) < 3 else 2.0
        add(self, *arguments, **keywords)

    monkeypatch.setattr(segmenter.Rows, "add", slower_from_the_third)
    seconds = 17 * 2 * 4 * 1.5 + 8
    run(bench, seconds, tta="flips")
    assert clock.now <= seconds
    assert EMPTY_RLE not in read_rows(bench).values()
    assert (
        "kidney_5 from kidney_5_0008 on: tta none, axes z, 2 model(s) instead of tta flips" in capsys.readouterr().out
    )


def test_axes_that_take_longer_than_thought_are_cut_short(bench, clock, monkeypatch, capsys):
    """All three would fit if they took what they are thought to take; z is done, so every slice has its pass."""
    monkeypatch.setattr(segmenter, "axes_factor", lambda *_: 3.0)  # really 14.3 and 33
    run(bench, 300, axes="zyx")
    said = capsys.readouterr().out
    assert clock.now <= 300
    assert "no faults" in said
    assert "kidney_5: the last planes along the axes; the mean is over what there is" in said


def test_without_time_what_is_left_is_named_and_every_slice_has_a_row(bench, clock, capsys):
    bench.settings = replace(bench.settings, strict=False)
    run(bench, 10)
    said = capsys.readouterr().out
    assert clock.now <= 10 + 1  # a slice that has begun is finished
    rles = read_rows(bench)
    assert len(rles) == 17 and 0 < list(rles.values()).count(EMPTY_RLE) < 17
    assert "no time left for" in said


def test_without_a_budget_nothing_is_dropped(bench, clock):
    run_kernel(bench.settings)
    assert clock.now == 2 * 4 + 2 * (12 + 8)  # in batches of 4, the last of which is filled up
