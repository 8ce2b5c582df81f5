"""Sums over the processes of a training run, so that several compute what one would with the same batch."""

import torch
import torch.distributed as dist
from torch import nn


def sum_over_processes(total: torch.Tensor) -> torch.Tensor:
    """Adds up a tensor of every process; its gradient flows back to all of them.

    Alone, the tensor itself. A loss made of such sums is the whole batch's loss in every process; averaging
    the gradients over processes, as DistributedDataParallel does, then gives that loss's exact gradient.

    Args:
        total: of any shape, the same in every process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return total
    return _SumOverProcesses.apply(total)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, total: torch.Tensor) -> torch.Tensor:
        summed = total.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed


class WholeBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the slices of all processes (torch's SyncBatchNorm exists for GPUs only)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, h, w) to the same shape; in evaluation exactly BatchNorm2d."""
        if not self.training:
            return super().forward(features)
        kept, features = features.dtype, features.float()
        size = features.new_tensor([features.numel() / features.shape[1]])
        sums = torch.cat((features.sum((0, 2, 3)), size))
        *_, pixels = sums = sum_over_processes(sums)
        mean = sums[:-1] / pixels
        centred = features - mean.view(1, -1, 1, 1)
        variance = sum_over_processes(centred.square().sum((0, 2, 3))) / pixels
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * pixels / (pixels - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(kept)


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Makes each BatchNorm2d of a model take its statistics over all processes; the model itself, changed."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = WholeBatchNorm2d
    return model
