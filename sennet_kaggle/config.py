"""Settings as frozen dataclasses; the command line and the checkpoint's card are made from them."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .checks import LARGEST, check_distinct, check_finite, check_numbers, check_scales, check_seeds, check_values
from .errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds that are tried where one is to be chosen."""
_LONGEST_SIDE = 2**15 - 1  # OpenCV cuts no larger window
_FARTHEST = 10_000  # no scan has as many slices
_MOST = {"epochs": 100_000, "epoch_slices": 1_000_000, "workers": 256, "window_size": _LONGEST_SIDE}
"""Above them a run would not fit into memory, or have no end."""


@dataclass(frozen=True)
class Preprocessing:
    """From a grey slice to the model's input, the same in training and inference."""

    intensity: Literal["eight_bit", "percentile"] = "percentile"
    """eight_bit: the top 8 bits over 255, which is what the report saw (cv2.imread's default).
    percentile: all 16 bits, the volume's low percentile to 0 and its high one to 1."""
    low_percentile: float = 10.0
    """Percentile of the volume's grey values that becomes 0 (intensity percentile)."""
    high_percentile: float = 99.8
    """Percentile of the volume's grey values that becomes 1 (intensity percentile)."""
    region: Literal["whole", "windows"] = "whole"
    """whole: the model sees the whole slice, resized to roi_size x roi_size pixels.
    windows: it sees windows of roi_size x roi_size pixels at the slice's own resolution."""
    roi_size: int = 512
    """Side of the square that the model sees, in pixels."""
    offsets: tuple[int, ...] = (0, 0, 0)
    """The slice that each input channel shows, counted from the slice to segment (2.5D); one of them is 0.
    When all are 0, every channel shows the slice itself, as many channels as mean has values."""
    outputs: Literal["centre", "all"] = "centre"
    """centre: the model answers for the slice to segment. all: it has one output per input channel, for the
    slice which that channel shows; the answers for a slice are averaged."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted per input channel after the intensity step; a single value is for every channel."""
    std: tuple[float, ...] = IMAGENET_STD
    """Divides each input channel after the mean is subtracted; a single value is for every channel."""

    @property
    def in_channels(self) -> int:
        return len(self.offsets) if any(self.offsets) else len(self.mean)

    @property
    def output_offsets(self) -> tuple[int, ...]:
        """The slice that each output channel is for, counted from the slice to segment."""
        if self.outputs == "centre":
            return (0,)
        return self.offsets if any(self.offsets) else (0,) * self.in_channels

    def check(self) -> None:
        """Raises InputError for settings that no model could have."""
        check_values(self)
        if not 1 <= self.roi_size <= _LONGEST_SIDE:
            raise InputError(f"roi_size must be at least 1 and at most {_LONGEST_SIDE}, got {self.roi_size}")
        if any(abs(offset) > _FARTHEST for offset in self.offsets):
            raise InputError(f"offsets must lie within {_FARTHEST} slices, got {self.offsets}")
        if 0 not in self.offsets:
            raise InputError(f"offsets must have a 0, for the slice to segment itself, got {self.offsets}")
        if not 0 <= self.low_percentile < self.high_percentile <= 100:
            found = f"{self.low_percentile:g} and {self.high_percentile:g}"
            raise InputError(f"the percentiles must lie in 0..100, the low one below the high one, got {found}")
        if any(value <= 0 or 1 / value > LARGEST for value in self.std):
            raise InputError(f"each channel must have a std above 0, got {self.std}")
        channels = self.in_channels
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise InputError(f"{name} must have 1 value or {channels}, one per input channel, got {values}")
        check_finite(self)


@dataclass(frozen=True)
class Inference:
    """How a trained model is run over a volume."""

    threshold: float | None = None
    """Probability above which a pixel is vessel; None takes the checkpoint's own."""
    axes: Literal["z", "zyx"] = "z"
    """z: slice by slice. zyx: also along the other two axes of the volume, and averaged."""
    tta: Literal["none", "flips", "d4"] = "none"
    """Views of each window that are averaged: itself; with both flips, 4; with the quarter turns as well, 8."""
    average: Literal["probability", "logit"] = "probability"
    """What is averaged over windows, views, axes and checkpoints; logits are first cut to -30..30."""
    overlap: float = 0.25
    """Share of a window that its neighbour covers as well, at least; below 1 (region windows)."""
    importance: Literal["constant", "gaussian"] = "gaussian"
    """Weight of a window's pixels where windows overlap; gaussian trusts its middle (region windows)."""
    skip_background: bool = True
    """Answer 0 for windows that surely lie outside the organ, without running the model (region windows)."""
    sw_batch_size: int | None = None
    """Windows per forward pass (region windows); None chooses from the GPU's memory, and 1 on the CPU."""
    batch_size: int | None = None
    """Slices per forward pass (region whole); None as for sw_batch_size."""
    scale: float | Literal["auto"] = 1.0
    """Resize the volume by this before the model sees it, and the answer back: its voxel size over that of training.
    In-plane for axes z, along all three for zyx. auto: of sizes that differ by more than 5 %, where both are known."""
    extra_scales: tuple[float, ...] = ()
    """Further scales at which a model of windows sees slices. Those above 1, such as 2, are averaged with the first:
    small vessels gain. All but the largest add vessels that are some 45 of their pixels wide or more, which the model
    may never have learned to fill at larger ones (see `ensemble.add_wide`)."""
    hysteresis: float = 1.0
    """Share of the threshold above which pixels are vessel too where they touch one above it in their slice; 1: off."""
    scales: dict[str, float] = field(default_factory=dict)
    """Scale of single kidneys, as JSON, such as {"kidney_6": 1.26} (63.08 over 50 micrometres)."""
    scratch_dir: str | None = None
    """An existing folder on a disk with room, for axes zyx: 4 bytes per voxel; None takes the system's own."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; auto is float16 on a GPU and float32 on the CPU. bfloat16 takes less time on CPUs
    that have it, but changes up to a hundredth of a slice's mask (the shipped checkpoint's)."""
    backend: Literal["torch", "openvino"] = "torch"
    """What runs the model: openvino, an optional package, is faster on CPUs."""
    compile: bool = False
    """Let torch compile the model first, which takes a minute or so and needs a C++ compiler."""

    def __post_init__(self) -> None:
        if isinstance(self.extra_scales, list):  # as JSON has it
            object.__setattr__(self, "extra_scales", tuple(self.extra_scales))

    def scale_of(self, name: str) -> float:
        """The scale of the kidney of that name; InputError where it is auto and nobody has settled it."""
        scale = self.scales.get(name, self.scale)
        if scale == "auto":
            raise InputError(f"scale auto is for predict, segment and the notebook: give the number for {name}")
        return scale

    def on_cpu(self) -> "Inference":
        """The same settings in their plainest form, which needs nothing but a CPU."""
        return replace(self, device="cpu", precision="float32", backend="torch", compile=False)

    def describe(self, threshold: str = "the checkpoint's own", models: Collection[str] = ()) -> str:
        """The settings that decide a mask, on one line; of the rarer ones those that are not the defaults.

        Args:
            threshold: what is used where the settings name none.
            models: names of the models; Segment Anything takes no views.
        """
        threshold = threshold if self.threshold is None else f"{self.threshold:g}"
        views = f"{self.tta} (none for sam)" if "sam" in models and self.tta != "none" else self.tta
        parts = [f"views {views}", f"axes {self.axes}", f"average {self.average}", f"threshold {threshold}"]
        rest = "extra_scales hysteresis overlap importance skip_background scale scales precision backend".split()
        values = {name: getattr(self, name) for name in rest if getattr(self, name) != getattr(Inference(), name)}
        values |= {"extra_scales": " and ".join(f"{each:g}" for each in self.extra_scales)} if self.extra_scales else {}
        return ", ".join(parts + [f"{name.replace('_', ' ')} {value}" for name, value in values.items()])

    def check(self) -> None:
        """Raises InputError for settings that no run could have."""
        check_scales((*(() if self.scale == "auto" else (self.scale,)), *self.scales.values()))
        check_values(self)
        check_numbers(self, shares=("threshold", "overlap"), at_least_1=("batch_size", "sw_batch_size"))
        if not 0 < self.hysteresis <= 1:
            raise InputError(f"hysteresis must lie in 0..1 (0 excluded), got {self.hysteresis}")
        if len({1, *self.extra_scales}) <= len(self.extra_scales) or not all(0.1 <= s <= 10 for s in self.extra_scales):
            raise InputError(f"extra_scales must lie in 0.1..10, once each, without 1 itself, got {self.extra_scales}")
        check_finite(self)


@dataclass(frozen=True)
class Training:
    """One training run: the model, its data, its schedule."""

    model: str = "unet"
    """A name that create_model knows."""
    model_arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of create_model, as JSON on the command line."""
    weights_path: str | None = None
    """Local file or folder of pretrained weights for models that take them (mit-b0 … mit-b5)."""
    init_from: str | None = None
    """A checkpoint of ours with this model and these arguments, whose weights the training starts from."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    train_volumes: tuple[str, ...] = ("kidney_1_dense",)
    """Kidneys under DATA_DIR/train to learn from."""
    held_out_volumes: tuple[str, ...] = ()
    """Kidneys under DATA_DIR/train that the model is validated on and does not learn from."""
    held_out_slices: tuple[str, ...] = ()
    """Slice ids that the model is validated on and does not learn from."""
    held_out_fraction: float = 0.0
    """Part of the labelled slices, drawn with the seed, that the model is validated on and does not learn from."""
    pseudo_label_dir: str | None = None
    """What predict --save-probability kept of kidneys with sparse labels; vessels seen there are added to these."""
    pseudo_label_threshold: float = 0.5
    """Probability above which a pixel is added."""
    not_annotated: int | None = None
    """Value of labels for voxels that nobody has looked at: the loss leaves them out, and slices of nothing else."""
    loss: str = "dice_bce"
    """A name that create_criterion knows."""
    loss_arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of create_criterion, as JSON; pos_weight "data" is the training slices' own ratio."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    """The peak with schedule one_cycle, else where it starts."""
    weight_decay: float = 1e-2
    schedule: Literal["constant", "one_cycle", "step", "multi_step"] = "one_cycle"
    """one_cycle: up and down once; step: times gamma after every epoch; multi_step: after each milestone."""
    milestones: tuple[int, ...] = ()
    """Epochs of schedule multi_step."""
    gamma: float = 0.1
    """Factor of the schedules step and multi_step."""
    epochs: int = 12
    epoch_slices: int = 0
    """Slices per epoch, drawn in rounds over all; 0 takes each training slice once."""
    distinct_epochs: int = 0
    """Epochs whose slices are varied differently; those after them repeat these in turn, so that a frozen encoder meets
    images that it knows. 0: every epoch is different."""
    batch_size: int = 4
    """Slices per optimizer step, over all processes and passes."""
    accumulate: int = 1
    """Passes that an optimizer step is split into, to need less memory."""
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; auto is float16 on a GPU and float32 on the CPU."""
    evaluate_every: int = 5
    """Epochs between looks at the held-out slices."""
    window_size: int | None = None
    """Side of the windows to learn from, in pixels, where it is not roi_size; a model of convolutions may look at
    more when it is used (region windows)."""
    threshold: float = 0.5
    """Probability above which a pixel is vessel, where no held-out slices choose it."""
    ema_decay: float = 0.0
    """Part of the averaged weights that each optimizer step keeps, below 1; those are validated and saved. 0: none."""
    augment: bool = True
    """Random flips, turns, zoom and light."""
    zoom: tuple[float, float] = (0.5, 1.5)
    """How much a window is enlarged when varied, at least and at most (region windows)."""
    scales: dict[str, float] = field(default_factory=dict)
    """Scale of single kidneys, on top of zoom, as JSON, such as {"kidney_1_voi": 0.26} (5.2 micrometres shown as 20;
    region windows with augment)."""
    light: float = 1.0
    """Strength of the varied contrast, gamma and blur; 0 leaves the grey values as they are (region windows)."""
    noise: float = 0.05
    """Largest standard deviation of the white noise in some windows, where the image is about 0..1 (region windows)."""
    planes: Literal["z", "zyx"] = "z"
    """z: windows are cut out of slices. zyx: also out of the planes across y and x, where labelled slices follow one
    another (region windows); the slices are decoded once, into the cache folder."""
    oblique: float = 0.0
    """Degrees, 45 at most: half of the windows lie in planes turned at random by up to so much, where labelled slices
    follow one another (region windows). 0: none."""
    synthetic: float = 0.0
    """Part of the windows that are drawn instead: vessels of any width in random looks (region windows). 0: none."""
    workers: int = 2
    """Processes that read ahead; 0 reads between the steps."""
    seed: int = 0
    """0 to 2**32 - 1."""

    @property
    def cuts_planes(self) -> bool:
        """Whether windows come out of decoded volumes, and part of a target may be unknown."""
        return self.planes != "z" or self.oblique > 0

    def check(self) -> None:
        """Raises InputError for settings that no run could have."""
        check_values(self)
        self.preprocessing.check()
        check_numbers(
            self,
            positive=("epochs", "batch_size", "accumulate", "learning_rate", "evaluate_every", "gamma"),
            not_negative=("epoch_slices", "distinct_epochs", "workers", "weight_decay", "light", "noise", "oblique"),
            at_most=_MOST,
            shares=("threshold", "pseudo_label_threshold", "held_out_fraction", "ema_decay", "synthetic"),
        )
        check_seeds((self.seed,))
        if self.not_annotated == 0:
            raise InputError("not_annotated must be another value than 0, which is background")
        if not self.train_volumes:
            raise InputError("train_volumes must name at least one kidney to learn from, found none")
        for name in ("train_volumes", "held_out_volumes", "held_out_slices"):
            check_distinct(name, getattr(self, name))
        if any(epoch < 1 for epoch in self.milestones):
            raise InputError(f"milestones must be epochs from 1 up, got {self.milestones}")
        self._check_windows()
        if self.weights_path is not None and self.init_from is not None:
            raise InputError("weights_path and init_from both give the first weights: give one of them")
        check_finite(self)

    def _check_windows(self) -> None:
        """Raises InputError for settings of the windows that are out of range, or that go with others."""
        region = self.preprocessing.region
        if self.window_size is not None and (self.window_size < 1 or region != "windows"):
            found = f"{self.window_size} and region {region}"
            raise InputError(f"window_size must be positive and goes with region windows, got {found}")
        if (self.cuts_planes or self.synthetic) and region != "windows":
            found = f"planes {self.planes}, oblique {self.oblique:g}, synthetic {self.synthetic:g} and region {region}"
            raise InputError(f"planes, oblique and synthetic go with region windows, got {found}")
        if self.oblique and (self.oblique > 45 or not self.augment):
            found = f"{self.oblique:g} and augment {self.augment}"
            raise InputError(f"oblique must be at most 45 degrees and goes with augment, got {found}")
        check_scales(self.scales.values())
        if not 0.1 <= self.zoom[0] <= self.zoom[1] <= 10:
            raise InputError(f"zoom must be two factors in 0.1..10, the smaller first, got {self.zoom}")


DEFAULT_INFERENCE = Inference(tta="flips", extra_scales=(2.0, 0.5))
"""How models are run wherever nothing else is asked for: in use, in the notebook, when they are validated or drawn."""
