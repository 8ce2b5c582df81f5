"""What a file is that holds no tensors we read, and whose weights a set of tensors is, in words for an error line."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

_HEAD_BYTES = 512
_MAX_SAFETENSORS_HEADER = 100_000_000  # safetensors' own limit


class Kind(NamedTuple):
    """What a file is, and what to do about it."""

    what: str
    remedy: str


_WEB_PAGE = "download the file itself, not the page that links to it"
_COPY = "copy it again"
# What the content begins with, after blanks and in lower case.
_BEGINNINGS = (
    (b"version https://git-lfs", Kind("a git-lfs pointer", "fetch the file itself with git lfs pull")),
    (b"<!doctype html", Kind("an HTML page", _WEB_PAGE)),
    (b"<html", Kind("an HTML page", _WEB_PAGE)),
    (b"<", Kind("an XML or HTML text", _WEB_PAGE)),
    (b"{", Kind("a JSON text", "give the file of weights itself")),
    (b"[", Kind("a JSON text", "give the file of weights itself")),
    (b"\x93numpy", Kind("an array of NumPy (.npy)", "save the tensors by name as .safetensors")),
    (b"\x89hdf", Kind("an HDF5 file, such as Keras writes", "save the tensors by name as .safetensors")),
    (b"gguf", Kind("a GGUF file", "give the PyTorch weights")),
    (b"\x1f\x8b", Kind("a gzip archive", "unpack it first")),
    (b"bzh", Kind("a bzip2 archive", "unpack it first")),
    (b"\xfd7zxz", Kind("an xz archive", "unpack it first")),
    (b"7z\xbc\xaf", Kind("a 7z archive", "unpack it first")),
    (b"rar!", Kind("a RAR archive", "unpack it first")),
)
# Of MobileSAM and LiteMedSAM, in their authors' names and in ours.
_TINY_NAMES = r"image_encoder\.(patch_embed\.seq|body\.stages)\."
# Parts of tensor names that tell whose weights these are; the first that is there counts.
_NAMES = (
    (_TINY_NAMES, "MobileSAM's architecture (a TinyViT image encoder)"),
    (r"image_encoder\.trunk\.|sam_mask_decoder\.|memory_attention\.", "SAM 2"),
    (r"vision_encoder\.backbone\.|memory_fuser\.", "SAM 2 in the names of HuggingFace"),
    (r"vision_encoder\.layers\.|shared_image_embedding\.", "Segment Anything in the names of HuggingFace"),
    (r"mask_decoder\.(hf_token|hf_mlp)\b", "HQ-SAM"),
    (r"mask_decoder\.final_output_upscaling_layers\.", "EfficientSAM"),
    (r"image_encoder\.blocks\..*\.Adapter\.|image_encoder\..*lora_", "Segment Anything with adapters"),
    (r"image_encoder\.(blocks|patch_embed\.proj)\.", "Segment Anything"),
    (r"(^|\.)layers\.0\.1\.0\.attn\.attn\.in_proj_weight", "SegFormer in the names of OpenMMLab"),
    (r"patch_embed1\.proj\.weight", "a Mix Transformer (SegFormer) in its original names"),
    (r"(^|\.)patch_embeddings\.0\.proj\.weight", "a SegFormer in the names of HuggingFace"),
    (r"(^|\.)_conv_stem\.weight", "an EfficientNet in the names of efficientnet-pytorch"),
    (r"(^|\.)encoders\.0\.0\.weight", "a U-Net of this package"),
    (r"(^|\.)decoders\.0\.0\.weight", "a U-Net on a timm encoder of this package"),
    (r"(^|\.)stages\.0\.blocks\.0\.conv_dw\.weight", "a ConvNeXt of timm"),
    (r"(^|\.)layer1\.0\.conv1\.weight", "a ResNet"),
    (r"(^|\.)blocks\.0\.attn\.qkv\.weight", "a vision transformer"),
)
_SAM_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


def looks_like_safetensors(path: Path) -> bool:
    """Whether the content begins as safetensors: the length of a JSON header, then the header."""
    with open(path, "rb") as file:
        head = file.read(9)
    return len(head) == 9 and int.from_bytes(head[:8], "little") <= _MAX_SAFETENSORS_HEADER and head[8:] == b"{"


def describe_content(path: Path) -> Kind | None:
    """Tells what a file is by its content, whatever its name says; None for what may hold tensors.

    A damaged file of tensors is for the loader to find.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    if not head:
        return Kind("an empty file", _COPY)
    if not head.strip(b"\0"):
        return Kind("zeros, as a copy leaves that was cut off", _COPY)
    if looks_like_safetensors(path):
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, kind in _BEGINNINGS:
        if text.startswith(beginning):
            return kind
    if head[257:262] == b"ustar":
        return Kind("a tar archive", "unpack it first")
    if head.startswith(b"PK"):
        return _describe_archive(path)
    if head[0] == 8 and len(head) > 2 and head[1] <= 32 and head[2] in b"\x12\x1a\x22\x2a\x32\x3a\x42":
        return Kind("an ONNX model", "give the PyTorch weights that it was made from")
    if head[4:8] == b"TFL3":
        return Kind("a TensorFlow Lite model", "give the PyTorch weights")
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        first_line = head.decode("ascii").strip().splitlines()[0][:40]
        return Kind(f"a text that begins {first_line!r}", "give the file of weights itself")
    return None


def _describe_archive(path: Path) -> Kind | None:
    """A zip archive: torch.save's own, or another's."""
    if not zipfile.is_zipfile(path):
        return None  # cut off
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return Kind("a TorchScript archive", "save its tensors: torch.save(torch.jit.load(FILE).state_dict(), NEW)")
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return Kind("arrays of NumPy (.npz)", "save them by name as .safetensors")
    if any("serialized_exported_program" in name or "/archive_format" in name for name in names):
        return Kind("a program of torch.export", "give the model's state_dict")
    shown = ", ".join(names[:3]) or "nothing"
    return Kind(f"a zip archive of {shown}", "unpack it, and name the file of weights in it")


def describe_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Tells whose weights these are, by names and shapes; "weights of another kind" where that is not known."""
    variant = sam_variant(tensors)
    for pattern, kind in _NAMES:
        if any(re.search(pattern, name) for name in tensors):
            if variant == "vit_t" and sam_patch_stride(tensors) == 1:
                return kind.replace("MobileSAM", "LiteMedSAM")
            return f"{kind} {variant}" if variant and kind == "Segment Anything" else kind
    return "weights of another kind"


def sam_variant(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The variant of Segment Anything's official weights, by the width or the names of its image encoder."""
    for name, tensor in tensors.items():
        if name.endswith("image_encoder.patch_embed.proj.weight") and tensor.ndim == 4:
            return _SAM_WIDTHS.get(len(tensor))
    return "vit_t" if any(re.search(_TINY_NAMES, name) for name in tensors) else None


def sam_patch_stride(tensors: Mapping[str, torch.Tensor]) -> int | None:
    """Of variant vit_t: 4 for MobileSAM's patch embedding (3x3), 1 for LiteMedSAM's (1x1); None where it is unknown."""
    for name, tensor in tensors.items():
        if re.search(r"image_encoder\.(patch_embed\.seq\.0\.c|body\.patch_embed\.conv1\.conv)\.weight$", name):
            return 1 if tuple(tensor.shape[-2:]) == (1, 1) else 4
    return None
