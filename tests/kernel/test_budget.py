"""The clock: what is dropped, in which order, and that every slice still gets a pass. Time is counted in passes."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fault_table import Bench, build_bench, copy_bench, read_rows

from sennet_kaggle.config import Inference
from sennet_kaggle.inference import ensemble
from sennet_kaggle.inference.forward import VIEWS
from sennet_kaggle.kernel import budget, cost_probe, fault_tolerant_volume, lap, scheduler, submit
from sennet_kaggle.kernel.budget import Budget, Pace, count_views, ladder
from sennet_kaggle.kernel.submit import run_kernel
from sennet_kaggle.models.checkpoint import load_checkpoint, save_checkpoint
from sennet_kaggle.models.unet import UNet
from sennet_kaggle.submission.rle import EMPTY_RLE


class Clock:
    """Time that passes when a model is shown something: a second per slice and view."""

    def __init__(self):
        self.now, self.seconds_per_slice, self.seconds_to_read = 0.0, 1.0, 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()

    def slow(self, tensor):
        clock.now += clock.seconds_per_slice * len(tensor)
        return tensor[:, :1]

    read = fault_tolerant_volume.read_grey

    def slow_read(path):
        clock.now += clock.seconds_to_read
        return read(path)

    monkeypatch.setattr(UNet, "forward", slow)
    monkeypatch.setattr(fault_tolerant_volume, "read_grey", slow_read)
    monkeypatch.setattr(ensemble, "prefetch", lambda items, ahead: iter(items))  # else passes run before their turn
    for module in (budget, scheduler, cost_probe, lap):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture(scope="module")
def original(tmp_path_factory, one_thread) -> Bench:
    """Kidneys of 12 and 5 slices, two models."""
    return build_bench(tmp_path_factory.mktemp("original"))


@pytest.fixture
def bench(original, tmp_path) -> Bench:
    return copy_bench(original, tmp_path / "copy")


def run(bench: Bench, seconds: float | None, batch_size: int = 1, **inference) -> None:
    settings = replace(bench.settings.inference, batch_size=batch_size, sw_batch_size=batch_size, **inference)
    hours = None if seconds is None else seconds / 3600
    run_kernel(replace(bench.settings, inference=settings, time_budget_hours=hours))


def test_the_ladder_has_the_stated_order():
    plans = ladder(Inference(tta="d4", axes="zyx"), 3)
    assert [(plan.inference.tta, plan.inference.axes, plan.members) for plan in plans] == [
        ("d4", "zyx", 3), ("flips", "zyx", 3), ("none", "zyx", 3), ("none", "z", 3), ("none", "z", 2), ("none", "z", 1),
    ]  # fmt: skip
    assert [str(plan) for plan in ladder(Inference(), 1)] == ["tta none, axes z, 1 model(s)"]
    plans = ladder(Inference(tta="flips", extra_scales=(0.5,)), 2)
    assert [(plan.inference.tta, plan.inference.extra_scales, plan.members) for plan in plans] == [
        ("flips", (0.5,), 2), ("none", (0.5,), 2), ("none", (), 2), ("none", (), 1),
    ]  # fmt: skip


def test_views_are_counted():
    assert {tta: count_views(Inference(tta=tta)) for tta in VIEWS} == {tta: len(views) for tta, views in VIEWS.items()}


def test_the_pace_is_that_of_the_trial_until_the_run_knows_better():
    plans = ladder(Inference(tta="flips", axes="zyx"), 2)
    pace = Pace(lambda plan, slices: slices * (56.0, 14.0, 4.0, 1.0)[plans.index(plan)])
    assert [pace.seconds(plan, 2) for plan in plans] == [112, 28, 8, 2]
    assert pace.choose(plans, 2, 124) is plans[0]  # a tenth is kept for caution
    assert pace.choose(plans, 2, 123) is plans[1]
    assert pace.choose(plans, 2, 0.1) is plans[-1]
    pace.learn(plans[2], 3, 24)
    assert [pace.seconds(plan, 2) for plan in plans] == [224, 56, 16, 4]
    pace.learn(plans[2], 3, 24)
    assert pace.correction == 2


def test_a_plan_is_taken_up_again_only_with_room_to_spare():
    plans = ladder(Inference(tta="flips"), 1)
    pace = Pace(lambda plan, slices: slices * (4.0 if plan is plans[0] else 1.0))
    assert pace.choose(plans, 10, 45) is plans[0]
    assert pace.choose(plans, 10, 45, current=plans[1]) is plans[1]
    assert pace.choose(plans, 10, 52, current=plans[1]) is plans[0]


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
        # All of it is 337 planes along three axes, 4 or 8 views, 2 models, and 2 slices for the cost probe.
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


@pytest.fixture
def in_turn(monkeypatch, clock):
    """The other processes do their work one after the other in this one, each on a clock of its own."""

    def start(work, arguments, faults):
        for each in arguments:
            began = clock.now
            clock.now += clock.to_start
            work(lambda: None, *each)
            clock.now, clock.others = began, max(clock.others, clock.now)
        return [Ended() for _ in arguments]

    def wait(workers, deadline):
        clock.now, clock.last_call = max(clock.now, clock.others), deadline
        return [None for _ in workers]

    clock.others = clock.to_start = 0.0
    monkeypatch.setattr(submit, "find_devices", lambda device: ["cpu", "cpu:0"])
    monkeypatch.setattr(submit, "start_workers", start)
    monkeypatch.setattr(submit, "wait_for_workers", wait)


class Ended:
    def is_running(self) -> bool:
        return False


@pytest.fixture(scope="module")
def originals(tmp_path_factory, original) -> dict[str, Bench]:
    """The same kidneys with models of whole slices, or of windows, six to a slice."""
    windows = copy_bench(original, tmp_path_factory.mktemp("windows") / "copy")
    for path in sorted(windows.checkpoints_dir.iterdir()):
        model, card = load_checkpoint(path)
        save_checkpoint(
            path, model, replace(card, preprocessing=replace(card.preprocessing, region="windows", roi_size=32))
        )
    return {"whole": original, "windows": windows}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("region", ["whole", "windows"])
def test_with_a_third_more_than_is_needed_nothing_is_dropped_and_with_a_third_less_all_is_done(
    originals, region, batch_size, processes, tmp_path, clock, request, capsys
):
    if processes == 2:
        request.getfixturevalue("in_turn")
    clock.seconds_to_read = 0.5

    def take(name: str, seconds: float | None) -> tuple[float, str, dict[str, str]]:
        bench = copy_bench(originals[region], tmp_path / name)
        clock.now = clock.others = 0.0
        run(bench, seconds, batch_size, tta="flips")
        return clock.now, capsys.readouterr().out, read_rows(bench)

    needed, _, rows = take("unlimited", None)
    taken, said, found = take("more", 1.3 * needed)
    assert "dropped for lack of time" not in said and found == rows
    assert taken == pytest.approx(needed)
    taken, said, found = take("less", 0.7 * needed)
    assert taken <= 0.7 * needed and "dropped for lack of time" in said
    assert "no faults" in said and EMPTY_RLE not in found.values()


def test_all_processes_have_one_deadline(bench, clock, in_turn, capsys):
    """Also one that takes long to start."""
    clock.to_start = 40.0
    run(bench, 100, tta="flips")
    assert 40 < clock.others <= 100 and 95 < clock.last_call < 100
    said = capsys.readouterr().out
    assert "dropped for lack of time: kidney_5 from kidney_5_0006 on: tta none" in said  # by the second
    assert "no faults" in said and EMPTY_RLE not in read_rows(bench).values()


def test_a_run_that_slows_down_drops_views_on_the_way(bench, clock, monkeypatch, capsys):
    add, added = scheduler.PartialSubmission.add, []

    def slower_from_the_third(self, *arguments, **keywords):
        added.append(clock.now)
        clock.seconds_per_slice = 1.0 if len(added) < 3 else 2.0
        add(self, *arguments, **keywords)

    monkeypatch.setattr(scheduler.PartialSubmission, "add", slower_from_the_third)
    seconds = 17 * 2 * 4 * 1.5 + 8
    run(bench, seconds, tta="flips")
    assert clock.now <= seconds
    assert EMPTY_RLE not in read_rows(bench).values()
    assert (
        "kidney_5 from kidney_5_0009 on: tta none, axes z, 2 model(s) instead of tta flips" in capsys.readouterr().out
    )


def test_a_run_that_gets_faster_takes_views_up_again(bench, clock, monkeypatch, capsys):
    add = scheduler.PartialSubmission.add
    clock.seconds_per_slice = 4.0

    def fast_from_now_on(self, *arguments, **keywords):
        clock.seconds_per_slice = 0.5
        add(self, *arguments, **keywords)

    monkeypatch.setattr(scheduler.PartialSubmission, "add", fast_from_now_on)
    run(bench, 17 * 2 * 4 * 3, tta="flips")
    said = capsys.readouterr().out
    assert "kidney_5 from kidney_5_0000 on: tta none, axes z, 2 model(s) instead of tta flips" in said
    assert "kidney_5 from kidney_5_0009 on: tta flips, axes z, 2 model(s) instead of tta none" in said
    assert EMPTY_RLE not in read_rows(bench).values()


def test_what_a_kidney_taught_of_the_pace_holds_for_the_next(bench, clock, monkeypatch, capsys):
    """A kidney is one batch of 16, so that nothing is known of the pace before its end."""
    monkeypatch.setattr(cost_probe, "time", SimpleNamespace(monotonic=lambda: clock.now / 3))  # all seems a third
    run(bench, 32 + 2 * 16 * 8 - 20, batch_size=16, tta="flips")
    said = capsys.readouterr().out
    assert "kidney_5 from kidney_5_0000 on" not in said
    assert "kidney_6 from kidney_6_0005 on: tta none" in said
    assert "no faults" in said


def test_axes_that_take_longer_than_thought_are_cut_short(bench, clock, monkeypatch, capsys):
    """All three would fit if they took what they are thought to take; z is done, so every slice has its pass."""
    seconds = cost_probe.Costs.seconds
    monkeypatch.setattr(cost_probe.Costs, "seconds", lambda *arguments: seconds(*arguments) / 5)
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
