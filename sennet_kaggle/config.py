"""Settings as frozen dataclasses; the command line and the checkpoint's card are made from them."""

from dataclasses import dataclass, field
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
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    train_volumes: tuple[str, ...] = ("kidney_1_dense",)
    """Kidneys under DATA_DIR/train to learn from."""
    held_out_slices: tuple[str, ...] = ()
    """Slice ids kept out of training; the best epoch and the threshold are chosen on them."""
    loss: str = "dice_bce"
    """A name that create_criterion knows."""
    epochs: int = 12
    evaluate_every: int = 5
    """Epochs between looks at the held-out slices."""
    batch_size: int = 4
    learning_rate: float = 1e-3
    """Peak of a one-cycle schedule."""
    weight_decay: float = 1e-2
    augment: bool = True
    """Random flips, quarter turns, zoom and contrast."""
    seed: int = 0


EXPERIMENTS = {
    "unet-small": Training(
        model_arguments={"widths": [8, 16, 32, 64, 128], "bottleneck": 256},
        held_out_slices=("kidney_1_dense_0414", "kidney_1_dense_0981"),
        epochs=300,
        batch_size=3,
        learning_rate=2e-3,
        evaluate_every=10,
    ),
}
"""Named training runs; `train NAME` starts one and any field can be overridden."""
