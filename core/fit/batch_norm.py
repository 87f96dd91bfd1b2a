"""Batch norm whose statistics are those of the whole batch, where several processes each hold a part of it.

torch's ``SyncBatchNorm`` does the same on GPUs and refuses CPU tensors.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Mean(torch.autograd.Function):
    """The adjoint of a mean over processes, where their losses are added, is the mean of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _mean(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _mean(gradients[0])


def _mean(x: Tensor) -> Tensor:
    out = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(out)
    return out / dist.get_world_size()


def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of ``x`` over all processes, with gradients; every process calls it with a tensor of the same shape."""
    out: Tensor = _Mean.apply(x)  # type: ignore[no-untyped-call]
    return out


class SharedBatchNorm(_BatchNorm):
    """Batch norm over the parts of all processes, which must be of one size: [B, C, ...] -> the same."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"input has {input.dim()} dimensions: at least 2.")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        dims = [0, *range(2, x.dim())]
        shape = (1, -1, *[1] * (x.dim() - 2))
        mean = mean_over_processes(x.mean(dims))
        centred = x - mean.view(shape)
        variance = mean_over_processes(centred.square().mean(dims))
        if self.running_mean is not None and self.running_var is not None:
            count = x.numel() // x.shape[1] * dist.get_world_size()
            self._follow(mean.detach(), variance.detach() * count / max(1, count - 1))
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def share_batch_norm(model: nn.Module) -> None:
    """Replace every batch norm inside ``model`` by one over all processes: the same parameters, names and buffers."""
    for name, child in model.named_children():
        if isinstance(child, _BatchNorm):
            shared = SharedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            shared.weight, shared.bias = child.weight, child.bias
            shared.running_mean, shared.running_var = child.running_mean, child.running_var
            shared.num_batches_tracked = child.num_batches_tracked
            setattr(model, name, shared.train(child.training))
        else:
            share_batch_norm(child)
