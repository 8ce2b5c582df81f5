"""Sums and BatchNorm over all processes; whole trainings in several are tested by tests/training/test_train.py."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm.layers
import torch
import torch.distributed as dist
from torch import nn

from sennet_kaggle.distributed import WholeBatchNorm, sum_over_processes


@pytest.fixture
def two_processes(monkeypatch):
    """Runs a function of the rank in two threads that add up tensors as two processes do."""
    barrier, slots = threading.Barrier(2, timeout=30), {}

    def all_reduce(tensor):
        slots[threading.get_ident()] = tensor.clone()
        barrier.wait()
        total = sum(slots[each] for each in sorted(slots))
        barrier.wait()
        tensor.copy_(total)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)

    def run(function):
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(function, rank) for rank in range(2)]
            return [future.result() for future in futures]

    return run


class EveryKind(nn.Module):
    """Every kind of BatchNorm in one model."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(
            [
                nn.BatchNorm2d(4),
                timm.layers.BatchNormAct2d(4),
                nn.BatchNorm2d(4, affine=False, momentum=None),
                nn.BatchNorm2d(4, track_running_stats=False, eps=1e-3),
            ]
        )
        self.flat, self.deep = nn.BatchNorm1d(4), nn.BatchNorm3d(1, momentum=0.3)
        for norm in (self.norms[0], self.norms[1], self.flat):
            nn.init.uniform_(norm.weight)
            nn.init.uniform_(norm.bias)

    def forward(self, image):
        for norm in self.norms:
            image = norm(image) + 0.5 * image.square()
        image = self.deep(image[:, None])[:, 0]
        return image * self.flat(image.mean(3))[..., None]


@pytest.mark.parametrize("slices", [1, 3])
def test_batch_norm_of_every_kind_is_that_of_the_whole_batch(two_processes, monkeypatch, slices):
    """An uneven batch: the second process has a slice less, or one that does not count."""
    torch.manual_seed(0)
    images = 3 * torch.randn(slices, 4, 5, 6, dtype=torch.float64) + 2
    direction = torch.randn_like(images)
    models = [EveryKind().double() for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    own = [images[0::2], images[1::2] if slices > 1 else 7 * images]
    directions = [direction[0::2], direction[1::2] if slices > 1 else torch.zeros_like(images)]

    def of_rank(rank):
        model = models[rank]
        with WholeBatchNorm(counts=rank == 0 or slices > 1):
            output = model(own[rank])
        (output * directions[rank]).sum().backward()
        return output.detach()

    outputs = two_processes(of_rank)
    monkeypatch.undo()
    whole = models[2](images)
    (whole * direction).sum().backward()
    torch.testing.assert_close(outputs[0], whole[0::2])
    if slices > 1:
        torch.testing.assert_close(outputs[1], whole[1::2])
    for ours, theirs, expected in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours.grad + theirs.grad, expected.grad)
    for name, expected in models[2].state_dict().items():
        for model in models[:2]:
            torch.testing.assert_close(model.state_dict()[name], expected, msg=name)


def test_in_evaluation_it_is_left_alone():
    torch.manual_seed(0)
    norm, features = nn.BatchNorm2d(4), torch.randn(2, 4, 3, 3)
    norm(features)
    expected = norm.eval()(features)
    with WholeBatchNorm():
        assert torch.equal(norm(features), expected)


def test_alone_it_is_torch_batch_norm():
    torch.manual_seed(0)
    theirs, ours = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
    features = (3 * torch.randn(4, 5, 7, 9) + 2).requires_grad_()
    same = features.detach().clone().requires_grad_()
    with WholeBatchNorm():
        output = ours(features)
    expected = theirs(same)
    torch.testing.assert_close(output, expected)
    direction = torch.randn_like(expected)
    for result in (output, expected):
        (result * direction).sum().backward()
    torch.testing.assert_close(features.grad, same.grad)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_alone_a_sum_is_itself():
    total = torch.tensor([1.0, 2.0], requires_grad=True)
    assert sum_over_processes(total) is total
