"""Every model keeps the same contract; published weights come from local files, and no code in them is run."""

import ast
import copy
import inspect
import logging
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_SAM
from safetensors.torch import save_file
from torch import nn

import sennet_kaggle.models
from sennet_kaggle.checks import check_arguments
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import MODELS, create_model
from sennet_kaggle.models.sam import SamVessels
from sennet_kaggle.models.segformer import load_pretrained
from sennet_kaggle.models.segformer_pass import segformer_logits
from sennet_kaggle.models.weights import load_weights_file

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "unet": {"widths": [4, 8], "bottleneck": 16},
    "segformer": {"hidden_sizes": [8, 16, 20, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16},
}
ACCEPT_ALL = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "max_area_fraction": None}


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("in_channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(64, 64), (61, 95), (33, 128)])
def test_logits_have_the_size_of_the_input(name, in_channels, size):
    model = create_model(name, in_channels=in_channels, **SMALL[name]).eval()
    logits = model(torch.randn(2, in_channels, *size))
    assert logits.shape == (2, 1, *size) and logits.dtype == torch.float32


def test_gradients_reach_every_parameter(name):
    model = create_model(name, **SMALL[name]).train()
    # A linear functional of the logits, so that no gradient vanishes by chance.
    torch.manual_seed(0)
    logits = model(torch.randn(2, 3, 64, 64))
    (logits * torch.randn_like(logits)).sum().backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_evaluation_is_deterministic_and_slices_are_independent(name):
    model = create_model(name, **SMALL[name]).eval()
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(model(images), model(images), rtol=0, atol=0)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)


def test_unet_border_does_not_depend_on_the_padding():
    """Logits at 61 x 95 are those of the image whose border was repeated up to 64 x 96 by hand."""
    model = create_model("unet", **SMALL["unet"]).eval()
    image = torch.randn(1, 3, 61, 95)
    by_hand = torch.cat([image, image[..., -1:]], dim=-1)
    by_hand = torch.cat([by_hand, *[by_hand[..., -1:, :]] * 3], dim=-2)
    assert by_hand.shape == (1, 3, 64, 96)
    torch.testing.assert_close(model(image), model(by_hand)[..., :61, :95], rtol=0, atol=0)


def test_unknown_model():
    with pytest.raises(InputError, match="unknown model 'resnet': choose one of sam, sam_segmenter, segformer, timm"):
        create_model("resnet")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_unknown_argument(name):
    with pytest.raises(InputError, match=f"model '{name}' has no argument 'depht': it takes .*, .*"):
        create_model(name, depht=3)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("unet", {"widths": []}, r"widths .* must be at least 1, got 3, \[\], 1024, 1 and 1"),
        ("unet", {"widths": [4, 0]}, "widths .* must be at least 1"),
        ("unet", {"in_channels": 0}, "in_channels, .* must be at least 1, got 0"),
        ("unet", {"bottleneck": 0}, "bottleneck, .* must be at least 1, got 3, .*, 0, 1 and 1"),
        ("unet", {"unshuffle": 0}, "unshuffle .* must be at least 1, .* 0 and 1"),
        ("unet", {"out_channels": 0}, "out_channels must be at least 1, .* 1 and 0"),
        ("unet", {"prior": 1.0}, "prior must lie between 0 and 1, got 1.0"),
        ("segformer", {"variant": "b9"}, "unknown SegFormer variant 'b9': choose one of b0, .*b5"),
        ("segformer", {"in_channels": 0}, "in_channels, .* must be at least 1, got 0, 256 and 1"),
        ("segformer", {"decoder_hidden_size": 0}, "decoder_hidden_size .* must be at least 1, got 3, 0 and 1"),
        ("segformer", {"depths": [1, 1, 1]}, r"depths must be four positive integers up to 4096, got \[1, 1, 1\]"),
        ("segformer", {"hidden_sizes": [32, 65, 160, 256]}, "multiples of .*1, 2, 5, 8.*got .32, 65, 160, 256"),
        ("segformer", {"num_attention_heads": [3, 2, 5, 8]}, "multiples of num_attention_heads .3, 2, 5, 8., got"),
        ("segformer", {"stride": 3}, "stride must be 1, 2 or 4, and shuffle one of them, no larger, got 3 and 1"),
        ("segformer", {"stride": 2, "shuffle": 4}, "shuffle one of them, no larger, got 2 and 4"),
        ("segformer", {"prior": 0}, "segformer: prior must lie between 0 and 1, got 0"),
        ("segformer", {"dropout": 1}, "segformer: dropout must lie in 0..1, below 1, got 1"),
        ("segformer", {"dropout": float("nan")}, "segformer: dropout must lie in 0..1, below 1, got nan"),
        ("segformer", {"depths": []}, r"depths must be four positive integers up to 4096, got \[\]"),
        ("sam", {"variant": "vit_x"}, "unknown SAM variant 'vit_x': choose one of vit_b, vit_l, vit_h, vit_t"),
        ("sam", {"image_size": 100}, "image_size must be a multiple of 16, got 100"),
        ("sam", {"embed_dim": 33}, "embed_dim a multiple of num_heads, got 33, 12 and 12"),
        ("sam", {"depth": 2}, r"global_attn_indexes must lie in 0..1, got \[2, 5, 8, 11\]"),
        ("sam", {**SMALL_SAM, "points_per_side": 0}, "points_per_side must lie in 1..256 .* got 0 and 64"),
        ("sam", {**SMALL_SAM, "points_per_side": 10**6}, "points_per_side must lie in 1..256 .* got 1000000 and 64"),
        ("sam", {**SMALL_SAM, "points_per_batch": 0}, "points_per_batch in 1..65536, got 2 and 0"),
        ("sam", {**SMALL_SAM, "pred_iou_thresh": float("nan")}, "pred_iou_thresh must be at most 1, got nan"),
        ("sam", {**SMALL_SAM, "stability_score_thresh": 95}, "stability_score_thresh must be at most 1, got 95"),
        ("sam", {**SMALL_SAM, "max_area_fraction": 5}, "max_area_fraction in 0..1 .* got 0 and 5"),
    ],
)
def test_values_out_of_range(name, arguments, message):
    with pytest.raises(InputError, match=message):
        create_model(name, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("unet", {"widths": 64}, "unet: widths must be list.int., found 64"),
        ("unet", {"widths": [4, 8.0]}, r"unet: widths must be list.int., found \[4, 8.0\]"),
        ("unet", {"bottleneck": "16"}, "unet: bottleneck must be int, found '16'"),
        ("unet", {"in_channels": True}, "unet: in_channels must be int, found True"),
        ("unet", {"prior": "0.1"}, "unet: prior must be float, found '0.1'"),
        ("segformer", {"hidden_sizes": "32"}, "segformer: hidden_sizes must be list.int. | None, found '32'"),
        ("segformer", {"fan_out": 1}, "segformer: fan_out must be bool, found 1"),
        ("timm_unet", {"encoder_arguments": [3]}, "timm_unet: encoder_arguments must be dict.str, Any. | None, found"),
        ("timm_unet", {"encoder": 3}, "timm_unet: encoder must be str, found 3"),
        ("sam_segmenter", {"tile": 2.5}, "sam_segmenter: tile must be int, found 2.5"),
        ("sam", {"points_per_side": 2.5}, "sam: points_per_side must be int, found 2.5"),
        ("sam", {"weights_path": 3}, "sam: weights_path must be Path | str | None, found 3"),
    ],
)
def test_values_of_another_type(name, arguments, message):
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        create_model(name, **arguments)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_each_argument_of_each_model_has_its_type_checked(name):
    for argument in inspect.signature(MODELS[name]).parameters:
        with pytest.raises(InputError, match=f"^{name}: {argument} must be .*, found .object"):
            create_model(name, **{argument: object()})


@pytest.mark.parametrize("name", sorted(MODELS))
def test_defaults_are_of_the_types_that_are_checked(name):
    parameters = inspect.signature(MODELS[name]).parameters.values()
    check_arguments(MODELS[name], {each.name: each.default for each in parameters}, name)


def test_heavy_packages_are_imported_inside_the_builders_only():
    """A U-Net needs neither; a module's own statements run at import, those of its functions do not."""
    paths = sorted(Path(sennet_kaggle.models.__file__).parent.glob("*.py"))
    at_import = {path.stem: [ast.unparse(node) for node in ast.parse(path.read_text()).body] for path in paths}
    assert {"segformer", "sam", "unet"} <= at_import.keys()
    for module, statements in at_import.items():
        imports = [line for line in statements if line.startswith(("import ", "from "))]
        assert imports, module
        assert not [line for line in imports if "transformers" in line or "segment_anything" in line], module


def test_unet_of_unshuffled_pixels_keeps_every_pixel():
    """The four pixels of a square are told apart, and the size is the image's own."""
    torch.manual_seed(0)
    model = create_model("unet", in_channels=1, widths=[8], bottleneck=8, unshuffle=2, prior=0.01).eval()
    image = torch.zeros(1, 1, 13, 18)
    assert model(image).shape == (1, 1, 13, 18)
    assert model(image).sigmoid().mean() < 0.1
    patterns = []
    for row, column in ((6, 8), (6, 9), (7, 8), (7, 9)):
        changed = image.clone()
        changed[..., row, column] = 5
        patterns.append(model(changed) - model(image))
    assert not any(torch.allclose(a, b) for a, b in zip(patterns, patterns[1:], strict=False))


def test_unet_parameters():
    """3x3 convolutions without bias, two BatchNorms each, transposed convolutions and head with bias."""
    with torch.device("meta"):
        assert count_parameters(create_model("unet", in_channels=1)) == 31_036_481
        assert count_parameters(create_model("unet", in_channels=3)) == 31_036_481 + 2 * 64 * 9


@pytest.mark.parametrize(("variant", "millions"), [("b0", 3.7), ("b1", 13.7), ("b2", 27.3), ("b5", 84.6)])
def test_segformer_variants_have_the_published_sizes(variant, millions):
    with torch.device("meta"):
        assert count_parameters(create_model("segformer", variant=variant)) / 1e6 == pytest.approx(millions, abs=0.15)


@pytest.mark.parametrize("size", [(64, 64), (61, 95), (33, 128)])
@pytest.mark.parametrize("labels", [1, 2])
def test_segformer_evaluates_as_huggingface_does(size, labels):
    """Random weights and statistics, so that no part of the decoder is neutral."""
    torch.manual_seed(0)
    network = create_model("segformer", in_channels=2, **SMALL["segformer"]).network
    network.decode_head.classifier = nn.Conv2d(16, labels, 1)
    norm = network.decode_head.batch_norm
    for values in (norm.weight, norm.bias, *(linear.proj.bias for linear in network.decode_head.linear_c)):
        nn.init.normal_(values)
    nn.init.normal_(norm.running_mean, std=0.01)
    nn.init.uniform_(norm.running_var, 1e-4, 1e-3)
    network.eval()
    with torch.inference_mode():
        image = torch.randn(3, 2, *size)
        expected = network(pixel_values=image).logits
        torch.testing.assert_close(segformer_logits(network, image), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.01


def test_segformer_trains_as_huggingface_does():
    """The same logits, statistics and gradients in training, with the same random paths."""
    torch.manual_seed(0)
    theirs = create_model("segformer", in_channels=2, **SMALL["segformer"]).network.train()
    ours = copy.deepcopy(theirs)
    image = torch.randn(3, 2, 61, 95)
    outputs = []
    for forward in (lambda: theirs(pixel_values=image).logits, lambda: segformer_logits(ours, image)):
        torch.manual_seed(1)
        outputs.append(forward())
        (outputs[-1] * torch.linspace(-1, 1, outputs[-1].shape[-1])).sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    for (name, one), other in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-2, atol=1e-3 * largest_gradient(theirs), msg=name)
    assert ours.segformer.encoder.block[-1][-1].drop_path.drop_prob > 0  # so the random paths are compared too
    norms = (network.decode_head.batch_norm for network in (theirs, ours))
    torch.testing.assert_close(*(norm.running_mean for norm in norms), rtol=1e-4, atol=1e-6)


def largest_gradient(network):
    """The largest gradient: those that are zero in theory, such as a key's bias, are rounding in both."""
    return max(parameter.grad.abs().max().item() for parameter in network.parameters())


def test_segformer_answers_for_every_pixel_of_a_square():
    """Whose only output is the head's bias: 16 logits, which stand in each 4 x 4 square in reading order."""
    model = create_model("segformer", in_channels=1, shuffle=4, **SMALL["segformer"]).eval()
    classifier = model.network.decode_head.classifier
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.copy_(torch.arange(16.0))
        logits = model(torch.randn(1, 1, 61, 95))
    assert logits.shape == (1, 1, 61, 95)
    torch.testing.assert_close(logits[0, 0, 8:12, 4:8], torch.arange(16.0).view(4, 4))
    torch.testing.assert_close(logits[0, 0, 60, 92:], torch.arange(3.0))


@pytest.mark.parametrize(("stride", "shuffle"), [(4, 1), (4, 2), (2, 1), (2, 2), (1, 1)])
def test_segformer_at_other_strides(stride, shuffle):
    """A finer first patch embedding, and its place in a checkpoint's arguments."""
    arguments = {"stride": stride, "shuffle": shuffle, **SMALL["segformer"]}
    model = create_model("segformer", in_channels=1, out_channels=2, **arguments).eval()
    seen = []
    model.network.decode_head.classifier.register_forward_hook(lambda *hooked: seen.append(hooked[2].shape))
    assert model.train()(torch.randn(2, 1, 61, 64)).shape == (2, 2, 61, 64)
    assert seen == [(2, 2 * shuffle**2, -(-61 // stride), 64 // stride)]


def test_segformer_of_fresh_weights_answers_the_prior():
    model = create_model("segformer", in_channels=1, shuffle=4, prior=0.01, **SMALL["segformer"]).eval()
    assert model(torch.randn(1, 1, 64, 64)).sigmoid().mean().item() == pytest.approx(0.01, rel=0.5)


def test_segformer_draws_convolutions_by_fan_out():
    """2 / (9 x 1) for one 3 x 3 kernel per channel, which HuggingFace draws 24 times smaller; the head stays small."""
    torch.manual_seed(0)
    network = create_model("segformer", in_channels=1, fan_out=True, dropout=0.0).network
    deviations = {
        "segformer.encoder.block.3.0.mlp.dwconv.dwconv": math.sqrt(2 / 9),
        "segformer.encoder.patch_embeddings.0.proj": math.sqrt(2 / (7 * 7 * 32)),
        "segformer.encoder.block.0.0.attention.self.sr": math.sqrt(2 / (8 * 8 * 32)),
        "decode_head.linear_fuse": math.sqrt(2 / 256),
        "decode_head.classifier": 0.02,
        "segformer.encoder.block.0.0.mlp.dense1": 0.02,
    }
    for name, deviation in deviations.items():
        assert network.get_submodule(name).weight.std().item() == pytest.approx(deviation, rel=0.15), name
    assert network.decode_head.dropout.p == 0


def test_segformer_is_huggingfaces_unless_asked():
    torch.manual_seed(0)
    network = create_model("segformer", in_channels=1).network
    assert network.segformer.encoder.block[3][0].mlp.dwconv.dwconv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert network.decode_head.dropout.p == 0.1


def test_segformer_b0_parameters():
    """mit-b0's encoder, then the decode head by hand: projections, fusion, BatchNorm, one logit."""
    with torch.device("meta"):
        network = create_model("segformer", variant="b0").network
    head = (32 + 64 + 160 + 256 + 4) * 256 + 4 * 256 * 256 + 2 * 256 + 256 + 1
    assert count_parameters(network.decode_head) == head
    assert count_parameters(network.segformer) == 3_319_392
    assert count_parameters(network) == 3_319_392 + head == 3_714_401


@pytest.fixture
def published():
    """Stands for a published SegFormer of the small size: random weights."""
    torch.manual_seed(1)
    return create_model("segformer", **SMALL["segformer"]).network


def assert_encoder_equals(network, tensors, prefix="segformer."):
    for name, tensor in network.segformer.state_dict().items():
        torch.testing.assert_close(tensor, tensors[prefix + name], rtol=0, atol=0)


@pytest.mark.parametrize("form", ["folder", "file", "pytorch_model.bin"])
@pytest.mark.parametrize("prefix", ["segformer.", ""], ids=["classifier's encoder", "bare encoder"])
def test_segformer_takes_local_encoder_weights(tmp_path, published, caplog, prefix, form):
    tensors = {prefix + name: tensor for name, tensor in published.segformer.state_dict().items()}
    tensors["classifier.weight"] = torch.zeros(1000, 16)  # mit-b0 … b5 carry ImageNet's head
    if form == "pytorch_model.bin":
        torch.save(tensors, tmp_path / form)
    else:
        save_file(tensors, tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors" if form == "file" else tmp_path
    torch.manual_seed(2)
    with caplog.at_level(logging.INFO, "sennet_kaggle.models.segformer"):
        model = create_model("segformer", weights_path=str(path), **SMALL["segformer"])
    assert_encoder_equals(model.network, tensors, prefix)
    loaded, fresh = load_pretrained(model, path)
    assert len(loaded) == len(tensors) - 1
    assert fresh == [f"decode_head.{name}" for name in model.network.decode_head.state_dict()]
    own, theirs = model.network.decode_head.linear_fuse.weight, published.decode_head.linear_fuse.weight
    assert not torch.equal(own, theirs)
    assert f"{len(loaded)} tensors loaded, {len(fresh)} left fresh: decode_head." in caplog.text


def test_segformer_takes_what_save_pretrained_wrote(tmp_path, published):
    """A whole SegFormer, its head too; one with other labels keeps our last layer fresh."""
    published.save_pretrained(tmp_path / "one")
    model = create_model("segformer", weights_path=tmp_path / "one", **SMALL["segformer"])
    for name, tensor in model.network.state_dict().items():
        torch.testing.assert_close(tensor, published.state_dict()[name], rtol=0, atol=0)
    published.decode_head.classifier = nn.Conv2d(16, 150, 1)
    published.save_pretrained(tmp_path / "ade")
    assert load_pretrained(model, tmp_path / "ade")[1] == [
        "decode_head.classifier.weight",
        "decode_head.classifier.bias",
    ]
    published.segformer.save_pretrained(tmp_path / "bare")
    model = create_model("segformer", weights_path=tmp_path / "bare", **SMALL["segformer"])
    assert_encoder_equals(model.network, published.state_dict())


@pytest.mark.parametrize("in_channels", [1, 5])
def test_segformer_of_other_channels_keeps_only_the_input_projection_fresh(tmp_path, published, in_channels):
    published.save_pretrained(tmp_path)
    model = create_model("segformer", in_channels=in_channels, weights_path=tmp_path, **SMALL["segformer"])
    assert load_pretrained(model, tmp_path)[1] == ["segformer.encoder.patch_embeddings.0.proj.weight"]
    assert model.eval()(torch.randn(1, in_channels, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_sizes": [16, 16, 20, 16]}, r"patch_embeddings.0.proj.bias must be \(16,\), found \(8,\)"),
        ({"depths": [1, 1, 2, 1]}, r"block.2.1.layer_norm_1.weight must be \(20,\), found nothing"),
    ],
    ids=["wider", "deeper"],
)
def test_segformer_refuses_another_variants_weights(tmp_path, published, change, message):
    published.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"not of this SegFormer: .*{message}; choose the variant"):
        create_model("segformer", weights_path=tmp_path, **{**SMALL["segformer"], **change})


def test_sam_segments_with_the_real_classes():
    torch.manual_seed(0)
    model = create_model("sam", **SMALL_SAM, **ACCEPT_ALL)
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    records = model.generate(image)
    assert records
    mask = model.segment(image)
    assert mask.shape == (90, 120) and mask.dtype == np.bool_ and mask.any()
    np.testing.assert_array_equal(mask, np.any([record["segmentation"] for record in records], axis=0))
    model.max_area_fraction = (min(record["area"] for record in records) - 1) / mask.size
    assert not model.segment(image).any()


def test_sam_drops_masks_of_low_score():
    model = create_model("sam", **SMALL_SAM, **{**ACCEPT_ALL, "pred_iou_thresh": 1.0})
    mask = model.segment(np.zeros((64, 40, 3), np.uint8))
    assert mask.shape == (64, 40) and mask.dtype == np.bool_ and not mask.any()


@pytest.mark.parametrize(
    ("min_area", "max_area_fraction", "expected"),
    [
        (0, None, "####/####/####"),
        (0, 1.0, "####/####/####"),
        (0, 0.5, "##../...#/...#"),
        (2, 2 / 12, "##../...#/...#"),
        (3, 0.5, "..../..../...."),
        (0, 1 / 12, "..../..../...."),
    ],
)
def test_sam_unites_the_masks_between_the_area_limits(monkeypatch, min_area, max_area_fraction, expected):
    """Two vessels of 2 pixels, the whole organ of 12 and a mask of none, in an image of 3 x 4."""
    made_with = []

    class Generator:
        def __init__(self, sam, **arguments):
            made_with.append((sam, arguments))

        def generate(self, image):
            masks = [draw(text) for text in ("##../..../....", "..../...#/...#", "####/####/####", "..../..../....")]
            return [{"segmentation": mask, "area": int(mask.sum())} for mask in masks]

    monkeypatch.setattr("segment_anything.SamAutomaticMaskGenerator", Generator)
    sam = nn.Identity()
    model = SamVessels(sam, 7, 5, 0.8, 0.9, min_area, max_area_fraction)
    np.testing.assert_array_equal(model.segment(np.zeros((3, 4, 3), np.uint8)), draw(expected))
    assert all(record["area"] for record in model.generate(np.zeros((3, 4, 3), np.uint8)))
    settings = {"points_per_side": 7, "points_per_batch": 5, "pred_iou_thresh": 0.8, "stability_score_thresh": 0.9}
    assert made_with == [(sam, settings)] * 2


def draw(text):
    return np.array([[pixel == "#" for pixel in row] for row in text.split("/")])


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)], ids=["grey", "float"])
def test_sam_refuses_other_images(image):
    with pytest.raises(InputError, match=r"image must be \(H, W, 3\) uint8, got \(8, 8"):
        create_model("sam", **SMALL_SAM).segment(image)


def test_sam_encoder_sizes():
    """vit_b has the published 93.7 million parameters (with 1024 pixels)."""
    with torch.device("meta"):
        official = create_model("sam", variant="vit_b")
    assert count_parameters(official) == 93_735_472
    assert not official.training and not official.sam.training


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_sam_weights_file(tmp_path, suffix):
    published = create_model("sam", **SMALL_SAM).sam.state_dict()
    path = tmp_path / f"sam{suffix}"
    (torch.save if suffix == ".pth" else save_file)(published, path)
    model = create_model("sam", weights_path=path, **SMALL_SAM)
    for name, tensor in model.sam.state_dict().items():
        torch.testing.assert_close(tensor, published[name], rtol=0, atol=0)
    with pytest.raises(InputError, match="do not fit SAM vit_b: .*; choose their variant") as caught:
        create_model("sam", weights_path=path, **{**SMALL_SAM, "embed_dim": 64})
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no.pth are missing: give a local file or folder"):
        load_weights_file(tmp_path / "no.pth")
    (tmp_path / "config.json").touch()
    with pytest.raises(InputError, match="must hold model.safetensors or pytorch_model.bin, found config.json"):
        load_weights_file(tmp_path)


def test_a_folder_gives_its_safetensors_first(tmp_path):
    torch.save({"from": torch.tensor(1)}, tmp_path / "pytorch_model.bin")
    assert load_weights_file(tmp_path)["from"] == 1
    save_file({"from": torch.tensor(2)}, tmp_path / "model.safetensors")
    assert load_weights_file(str(tmp_path))["from"] == 2


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 40, -50], ids=["empty", "header only", "cut short"])
def test_truncated_weights(tmp_path, suffix, kept):
    path = tmp_path / f"a{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        InputError, match="must be a whole file of tensors, found (damage .*|an empty file): copy it again"
    ) as caught:
        load_weights_file(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "list"),
        ({}, "none"),
        ({"epoch": 3}, "int under 'epoch'"),
    ],
    ids=["list", "no tensor", "no weights"],
)
def test_weights_that_are_something_else(tmp_path, content, found):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=f"must hold tensors by name, found {found}: save the model's state_dict"):
        load_weights_file(tmp_path / "a.pth")


class Harmful:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return (open, ("pwned.txt", "w"))


@pytest.mark.parametrize("protocol", [None, 2], ids=["torch.save", "bare pickle"])
def test_pickled_code_is_not_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    if protocol is None:
        torch.save({"a": Harmful()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Harmful()}, protocol=protocol))
    with pytest.raises(InputError, match="refused, nothing was run") as caught:
        load_weights_file(path)
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "pwned.txt").exists()
