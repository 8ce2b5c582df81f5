"""BatchNorm over all processes; with several processes it is tested by tests/test_train.py."""

import torch
from torch import nn

from sennet_kaggle.distributed import WholeBatchNorm2d, sum_over_processes, synchronize_batch_norm


def test_alone_it_is_torch_batch_norm():
    torch.manual_seed(0)
    theirs = nn.BatchNorm2d(5)
    nn.init.uniform_(theirs.weight)
    nn.init.uniform_(theirs.bias)
    ours = synchronize_batch_norm(nn.Sequential(nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1)))[0]
    assert type(ours) is WholeBatchNorm2d
    ours.load_state_dict(theirs.state_dict())
    for training in (True, True, False):
        features = (3 * torch.randn(4, 5, 7, 9) + 2).requires_grad_()
        same = features.detach().clone().requires_grad_()
        results = [norm.train(training)(x) for norm, x in ((ours, features), (theirs, same))]
        torch.testing.assert_close(*results)
        direction = torch.randn_like(results[0])
        for result in results:
            (result * direction).sum().backward()
        torch.testing.assert_close(features.grad, same.grad)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_alone_a_sum_is_itself():
    total = torch.tensor([1.0, 2.0], requires_grad=True)
    assert sum_over_processes(total) is total
