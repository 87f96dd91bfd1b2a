"""A masked diffusion language model as a policy: the weights that are trained, and those it began with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call


class TrainedWeights(nn.Module):
    """The parameters of a network that are trained: what a run averages, keeps and resumes.

    Parameters
    ----------
    net : Module
        Its frozen weights, of which there may be billions, stay out of every checkpoint.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.beneath = (net,)  # in a tuple: a module here would be a child
        for name, parameter in net.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)

    def train(self, mode: bool = True) -> TrainedWeights:
        super().train(mode)
        self.beneath[0].train(mode)
        return self


class Policy:
    """A network that is trained, and the one it was when training began.

    Parameters
    ----------
    net : Module
        Called with tokens int64 [B, L] and positions int64 [K] or None, gives logits [B, K, V].
    mask_id, eos_id : int
    """

    def __init__(self, net: nn.Module, mask_id: int, eos_id: int) -> None:
        self.net, self.mask_id, self.eos_id = net, mask_id, eos_id
        self.trained = TrainedWeights(net)
        self.start = self.weights()

    def logits(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """See ``sampling.MaskedLanguageModel``."""
        logits: Tensor = self.net(tokens, positions)
        return logits

    @torch.no_grad()
    def reference(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """``logits`` of the policy at the start of stage 2, of which a LoRA adapter leaves nothing but the model."""
        logits: Tensor = functional_call(self.net, self.start, (tokens, positions))
        return logits

    def weights(self) -> dict[str, Tensor]:
        """A copy of the trained weights, by their names in ``net``."""
        return {name: p.detach().clone() for name, p in self.net.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over weights that ``weights`` gave."""
        for name, parameter in self.net.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
