"""Segment Anything without prompts: the contract of every model, segment_anything's own decoder as the measure."""

import copy

import pytest
import torch

from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model, load_pretrained
from sennet_kaggle.models.embedding_cache import EmbeddingCache
from sennet_kaggle.models.sam_segmenter import _tiles

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"upscale": 1, "detail_width": 4, "prompts": 2}


def segmenter(**arguments):
    torch.manual_seed(0)
    return create_model("sam_segmenter", **{**SMALL, **arguments})


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("size", [(64, 64), (61, 95)], ids=str)
def test_logits_have_the_size_of_the_input(in_channels, size):
    model = segmenter(in_channels=in_channels).eval()
    with torch.no_grad():
        image = torch.randn(2, in_channels, *size)
        logits = model(image)
        assert logits.shape == (2, 1, *size) and logits.dtype == torch.float32
        torch.testing.assert_close(model(image)[1:], model(image[1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "cell", "masks"),
    [
        ({"upscale": 1}, 16, 4),
        ({"upscale": 2}, 8, 4),
        ({"upscale": 4}, 4, 1),
        ({"upscale": 1, "image_size": 256}, 4, 1),
    ],
    ids=["MobileSAM", "twice", "four times", "LiteMedSAM"],
)
def test_an_enlarged_image_has_smaller_cells(arguments, cell, masks):
    """Masks have four pixels per cell; four masks are shuffled together while these are larger than the image's."""
    model = segmenter(**arguments).eval()
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        embedding = model.embed(image)
        assert embedding.shape == (1, 256, 32 // cell, 48 // cell)
        assert model.decode(embedding, image).shape == (1, masks, 128 // cell, 192 // cell)
        assert model(image).shape == (1, 1, 32, 48)


def test_the_decoder_is_that_of_segment_anything():
    """The learned prompt given as a point's, the masks are those of its own MaskDecoder at 64 x 64 cells."""
    torch.manual_seed(0)
    sam = create_model("sam", variant="vit_t").sam
    embedding = torch.randn(1, 256, 64, 64)
    model = segmenter(detail_width=0)
    load_from(model, sam)
    with torch.no_grad():
        expected, _ = sam.mask_decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=model.prompt.weight[None],
            dense_prompt_embeddings=sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(1, -1, 64, 64),
        )
        masks = model.decode(embedding, torch.zeros(1, 3, 1024, 1024))
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-5)


def load_from(model, sam):
    model.load_state_dict(sam.state_dict(), strict=False)


def test_positions_of_a_smaller_image_are_as_far_apart():
    model = segmenter()
    whole = create_model("sam", variant="vit_t").sam
    load_from(model, whole)
    expected = whole.prompt_encoder.get_dense_pe()  # (1, 256, 64, 64)
    torch.testing.assert_close(model._positions(64, 64), expected)
    torch.testing.assert_close(model._positions(5, 7), expected[..., :5, :7])


@pytest.mark.parametrize(
    ("length", "tile", "expected"),
    [(5, 8, [(0, 5)]), (8, 8, [(0, 8)]), (9, 8, [(0, 8), (1, 9)]), (20, 8, [(0, 8), (6, 14), (12, 20)])],
)
def test_tiles_cover_the_cells_and_overlap(length, tile, expected):
    assert [(each.start, each.stop) for each in _tiles(length, tile)] == expected


def test_a_large_image_is_decoded_in_tiles():
    """Where one tile alone covers a place it answers there; a tile that covers all answers as if there were none."""
    image = torch.randn(1, 3, 16 * 4, 16 * 10)
    with torch.no_grad():
        model = segmenter(tile=8).eval()
        embedding = model.embed(image)
        masks = model._decode_in_tiles(embedding, image)
        left = model.decode(embedding[..., :8], image[..., : 16 * 8])
        right = model.decode(embedding[..., 2:], image[..., 16 * 2 :])
        torch.testing.assert_close(masks[..., : 4 * 2], left[..., : 4 * 2])
        torch.testing.assert_close(masks[..., 4 * 8 :], right[..., 4 * 6 :])
        low, high = torch.minimum(left[..., 8:], right[..., :24]), torch.maximum(left[..., 8:], right[..., :24])
        both = masks[..., 8:32]
        assert ((both >= low - 1e-5) & (both <= high + 1e-5)).all() and not torch.allclose(left[..., 8:], both)
        model.tile = 10
        torch.testing.assert_close(model._decode_in_tiles(embedding, image), model.decode(embedding, image))


@pytest.mark.parametrize("encoder", ["frozen", "adapted"])
def test_gradients_reach_what_is_trained_and_nothing_else(encoder):
    model = segmenter(encoder=encoder).train()
    statistics = [norm.running_mean.clone() for norm in norms(model)]
    for values in (model.detail.both[-1].weight, model.detail.both[-1].bias):
        torch.nn.init.normal_(values)  # else what comes before them has no gradient yet
    logits = model(torch.randn(2, 3, 32, 32))
    (logits * torch.randn_like(logits)).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained
    in_encoder = {name for name in trained if name.startswith("image_encoder.")}
    assert bool(in_encoder) == (encoder == "adapted") and not any(".bn." in name for name in in_encoder)
    assert {"prompt.weight", "detail.image.0.weight", "mask_decoder.mask_tokens.weight"} <= trained
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms(model), statistics, strict=True))
    assert model.mask_decoder.training and model.image_encoder.training == (encoder == "adapted")


def norms(model):
    found = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(found) == 27
    return found


def test_detail_adds_nothing_at_first():
    with_detail, image = segmenter().eval(), torch.randn(1, 3, 32, 32)
    without = segmenter(detail_width=0).eval()
    without.load_state_dict(with_detail.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(with_detail(image), without(image), rtol=0, atol=0)


def test_a_frozen_encoder_sees_a_training_image_once(monkeypatch):
    model = segmenter().train()
    images, seen = torch.randn(3, 3, 32, 32), []
    encode = model.image_encoder.forward
    monkeypatch.setattr(model.image_encoder, "forward", lambda image: seen.append(len(image)) or encode(image))
    first = model(images[:2])
    again = model(images)
    assert seen == [1, 1, 1] and len(model.embeddings) == 3
    torch.testing.assert_close(again[:2], first)
    model.eval()(images)
    assert seen == [1, 1, 1, 3]  # in use nothing is kept
    assert len(copy.deepcopy(model).embeddings) == 0


def test_a_full_cache_keeps_what_it_has():
    cache, calls = EmbeddingCache(1), []

    def encode(images):
        calls.append(len(images))
        return images[:, :1] * 2

    images = torch.stack([torch.full((3, 2, 2), value) for value in (1.0, 2.0)])
    for _ in range(2):
        assert torch.equal(cache.look_up(images, encode), images[:, :1] * 2)
    assert calls == [1, 1, 1] and len(cache) == 1


def test_official_weights_leave_prompt_and_detail_fresh(tmp_path):
    torch.manual_seed(1)
    published = create_model("sam", variant="vit_t").sam.state_dict()
    torch.save(published, tmp_path / "mobile_sam.pt")
    model = segmenter()
    loaded, fresh = load_pretrained("sam_segmenter", model, tmp_path / "mobile_sam.pt")
    assert {name.split(".")[0] for name in fresh} == {"prompt", "detail"} and len(loaded) + len(fresh) == len(
        model.state_dict()
    )
    for name in loaded:
        torch.testing.assert_close(model.state_dict()[name], published[name], rtol=0, atol=0)
    torch.save(model.state_dict(), tmp_path / "ours.pt")
    assert load_pretrained("sam_segmenter", segmenter(), tmp_path / "ours.pt")[1] == []


def test_weights_of_another_encoder_are_refused(tmp_path):
    torch.save(create_model("sam", variant="vit_t", image_size=256).sam.state_dict(), tmp_path / "lite.pt")
    with pytest.raises(InputError, match="do not fit this model: the file holds LiteMedSAM's .* image_size 256 and up"):
        segmenter(weights_path=tmp_path / "lite.pt")
    assert segmenter(image_size=256, weights_path=tmp_path / "lite.pt").cell == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 2}, "in_channels must be 1 or 3, got 2"),
        ({"variant": "vit_b"}, "variant must be vit_t, which takes images of every size, got 'vit_b'"),
        ({"encoder": "thawed"}, "encoder must be frozen or adapted, got 'thawed'"),
        ({"upscale": 3}, "upscale must be 1, 2 or 4, and 1 for LiteMedSAM, .* got 3"),
        ({"upscale": 2, "image_size": 256}, "upscale must be .* and 1 for LiteMedSAM, .* got 2"),
        ({"prompts": 0}, "prompts and tile must be at least 1, .* got 0, 64, 0 and 512"),
        ({"tile": 0}, "got 4, 0, 0 and 512"),
    ],
)
def test_values_out_of_range(arguments, message):
    with pytest.raises(InputError, match=f"sam_segmenter: .*{message}|{message}"):
        create_model("sam_segmenter", **arguments)
