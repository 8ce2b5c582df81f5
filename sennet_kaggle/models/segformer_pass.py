"""SegFormer's forward pass: HuggingFace's modules and weights, the same function, without its copies."""

from typing import Any

import torch
import torch.nn.functional as F

# HuggingFace's layers. To a type checker any attribute of an nn.Module may be a tensor as well.
Layer = Any


def segformer_logits(network: Layer, image: torch.Tensor) -> torch.Tensor:
    """Does what HuggingFace's SegformerForSemanticSegmentation does, in training and in evaluation mode.

    Tokens stay in the order (N, h, w, C) throughout, so that a linear layer, a norm and a channels-last
    convolution all read them as they lie. Dropout of hidden states and attention, which no SegFormer has, is left out.

    Args:
        network: of that class.
        image: (N, C, h, w) float.

    Returns:
        Logits (N, labels, h/4, w/4).
    """
    encoder = network.segformer.encoder
    features, levels = image, []
    for embedding, blocks, norm in zip(encoder.patch_embeddings, encoder.block, encoder.layer_norm, strict=True):
        tokens = embedding.layer_norm(_to_tokens(embedding.proj(features)))
        for block in blocks:
            tokens = _add(block.drop_path(_attend(block.attention, block.layer_norm_1(tokens))), tokens)
            tokens = _add(block.drop_path(_mix(block.mlp, block.layer_norm_2(tokens))), tokens)
        levels.append(norm(tokens))
        features = _to_map(levels[-1])
    return _decode(network.decode_head, levels)


def _add(change: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The residual sum; in place where no gradient and no wider dtype needs the parts."""
    return change + tokens if torch.is_grad_enabled() else change.add_(tokens)


def _attend(attention: Layer, tokens: torch.Tensor) -> torch.Tensor:
    """Attention of every token (N, h, w, C) to a map that a strided convolution has reduced."""
    layer = attention.self
    reduced = tokens
    if layer.sr_ratio > 1:
        reduced = layer.layer_norm(_to_tokens(layer.sr(_to_map(tokens))))
    query, key, value = (
        project(states).flatten(1, 2).unflatten(-1, (layer.num_attention_heads, -1)).transpose(1, 2)
        for project, states in ((layer.query, tokens), (layer.key, reduced), (layer.value, reduced))
    )  # (N, heads, tokens, C/heads)
    context = F.scaled_dot_product_attention(query, key, value)
    return attention.output.dense(context.transpose(1, 2).reshape(tokens.shape))


def _mix(mlp: Layer, tokens: torch.Tensor) -> torch.Tensor:
    hidden = _to_tokens(mlp.dwconv.dwconv(_to_map(mlp.dense1(tokens))))
    return mlp.dense2(mlp.intermediate_act_fn(hidden))


def _decode(head: Layer, levels: list[torch.Tensor]) -> torch.Tensor:
    """The all-MLP decoder with its linear layers multiplied out.

    Each level is projected, brought to the first one's size, concatenated, fused by a 1x1 convolution and
    normalised. All of that is linear, and bilinear weights add up to 1: a level can go through one small
    matrix at its own size, and the sum of the levels is what the fusion would have given. That sum is by far the
    largest tensor of the pass: there is one of it, and what follows happens in its place.
    In training the norm needs the sum itself, and in evaluation it goes into the matrices.
    """
    parts = head.linear_fuse.weight.flatten(1).chunk(len(levels), dim=1)[::-1]  # the deepest level comes first there
    scale, shift = torch.ones_like(head.batch_norm.weight), torch.zeros_like(head.batch_norm.bias)
    if not head.training:
        norm = head.batch_norm
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
    for tokens, linear, part in zip(levels, head.linear_c, parts, strict=True):
        part = scale[:, None] * part
        weight, bias = part @ linear.proj.weight, part @ linear.proj.bias
        if tokens is levels[0]:
            total = _mix_channels(tokens, weight, bias + shift)
        else:
            projected = _mix_channels(tokens, weight, bias)
            total += F.interpolate(projected, total.shape[2:], mode="bilinear", align_corners=False)
    if head.training:
        return head.classifier(head.dropout(F.relu(head.batch_norm(total))))
    return F.conv2d(F.relu_(total), head.classifier.weight, head.classifier.bias)


def _mix_channels(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A linear layer on tokens (N, h, w, C), as the convolution that it is: (N, outputs, h, w)."""
    return F.conv2d(_to_map(tokens), weight[..., None, None], bias)


def _to_tokens(features: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) → (N, h, w, C), a view."""
    return features.permute(0, 2, 3, 1)


def _to_map(tokens: torch.Tensor) -> torch.Tensor:
    """(N, h, w, C) → (N, C, h, w), a view in channels-last order."""
    return tokens.permute(0, 3, 1, 2)
