"""Settings as frozen dataclasses; the command line and the checkpoint's card are made from them."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds that are tried where one is to be chosen."""


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
    roi_size: int = 512
    """The whole slice is resized to roi_size x roi_size pixels."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted per input channel after the intensity step; its length is the number of channels."""
    std: tuple[float, ...] = IMAGENET_STD
    """Divides each input channel after the mean is subtracted."""

    @property
    def in_channels(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class Inference:
    """How a trained model is run over a volume."""

    threshold: float | None = None
    """Probability above which a pixel is vessel; None takes the checkpoint's own."""
    batch_size: int = 4
    """Slices per forward pass."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; auto is float16 on a GPU and float32 on the CPU."""


@dataclass(frozen=True)
class Training:
    """One training run: the model, its data, its schedule."""

    model: str = "unet"
    """A name that create_model knows."""
    model_arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of create_model, as JSON on the command line."""
    weights_path: str | None = None
    """Local file or folder of pretrained weights for models that take them (mit-b0 … mit-b5)."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    train_volumes: tuple[str, ...] = ("kidney_1_dense",)
    """Kidneys under DATA_DIR/train to learn from."""
    held_out_volumes: tuple[str, ...] = ()
    """Kidneys under DATA_DIR/train that are judged and not learned from."""
    held_out_slices: tuple[str, ...] = ()
    """Slice ids that are judged and not learned from."""
    held_out_fraction: float = 0.0
    """Part of the labelled slices, drawn with the seed, that are judged and not learned from."""
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
    batch_size: int = 4
    """Slices per optimizer step, over all processes and passes."""
    accumulate: int = 1
    """Passes that an optimizer step is split into, to need less memory."""
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; auto is float16 on a GPU and float32 on the CPU."""
    evaluate_every: int = 5
    """Epochs between looks at the held-out slices."""
    augment: bool = True
    """Random flips, quarter turns, zoom and contrast."""
    workers: int = 2
    """Processes that read ahead; 0 reads between the steps."""
    seed: int = 0


# What the report saw and did: 8-bit slices at 512 x 512, an 80/20 split by slice, no augmentation.
_REPORT = Training(
    preprocessing=Preprocessing(intensity="eight_bit"),
    held_out_fraction=0.2,
    evaluate_every=1,
    augment=False,
)
_REPORT_UNET = replace(_REPORT, optimizer="adam", learning_rate=1e-4, weight_decay=0.0, batch_size=16)
_REPORT_SEGFORMER = replace(
    _REPORT,
    model="segformer",
    learning_rate=6e-6,
    batch_size=8,
    epochs=60,
    schedule="multi_step",
    milestones=(20, 40),
    gamma=0.1,
)

EXPERIMENTS = {
    "unet-bce": replace(_REPORT_UNET, loss="bce", epochs=12, schedule="constant"),
    "unet-dice-bce": replace(_REPORT_UNET, loss="dice_bce", epochs=8, schedule="step", gamma=0.95),
    "segformer-bce": replace(_REPORT_SEGFORMER, loss="bce"),
    "segformer-weighted-bce": replace(_REPORT_SEGFORMER, loss="weighted_bce", loss_arguments={"pos_weight": 50.0}),
    "segformer-ce-dice": replace(_REPORT_SEGFORMER, loss="ce_dice"),
    "segformer-ignore-background": replace(_REPORT_SEGFORMER, loss="ignore_background_bce"),
    "unet-small": Training(
        model_arguments={"widths": [8, 16, 32, 64, 128], "bottleneck": 256},
        held_out_slices=("kidney_1_dense_0414", "kidney_1_dense_0981"),
        epochs=300,
        batch_size=3,
        learning_rate=2e-3,
        evaluate_every=10,
    ),
}
"""Named training runs, the report's six and the shipped checkpoint's; any field can be overridden."""

SAM_ZERO_SHOT = "sam-zero-shot"
"""The report's seventh experiment: Segment Anything, which is not trained."""

REPORTED_DICE = {"unet-bce": 0.45, "unet-dice-bce": 0.68}
"""Dice on kidney_2 that the report gives."""
REPORTED_SEGFORMER_SLICES = (0.643, 0.578, 0.438)
"""Dice of three slices that the report shows for SegFormer, without saying with which loss."""
