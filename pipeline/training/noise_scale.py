"""Gradient-noise scale from two halves of a batch (McCandlish et al., arXiv 1812.06162, appendix A.1)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def squared_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Sum of squares of all gradients, a float32 scalar on their device."""
    return torch.stack([g.float().square().sum() for g in gradients]).sum()


class NoiseScale:
    """Running means of |G|^2 and tr(S) over an epoch; their ratio is the simple noise scale, in samples.

    |G_b|^2 of a batch of b samples has the mean |G|^2 + tr(S)/b, so two batch sizes give both unknowns. The halves
    are the lower and the upper positions of the global batch, already averaged over the workers.
    """

    def __init__(self) -> None:
        self._signal: list[Tensor] = []
        self._spread: list[Tensor] = []

    def halves(self, model: nn.Module, first: list[Tensor], batch: int) -> None:
        """Take one measurement.

        Args:
            model: its gradients are those of the whole batch's mean loss.
            first: the same parameters' gradients after the first half, still divided by the whole batch.
            batch: samples of the whole batch.
        """
        whole = [p.grad for p in model.parameters() if p.grad is not None]
        big = squared_norm(whole)
        # halves weigh one half each in the sum, so each half's own mean gradient is twice its part
        small = 2 * (squared_norm(first) + squared_norm(w - f for w, f in zip(whole, first, strict=True)))
        self._signal.append(2 * big - small)
        self._spread.append((small - big) * batch)

    def state(self) -> list[list[float]]:
        """The measurements of the epoch so far; the same on all workers."""
        return [[float(value) for value in values] for values in (self._signal, self._spread)]

    def restore(self, state: list[list[float]]) -> None:
        """Go on from those measurements."""
        self._signal, self._spread = ([torch.tensor(value) for value in values] for values in state)

    def take(self) -> float | None:
        """tr(S)/|G|^2 of the epoch, and start anew; None without a measurement or where the signal drowned."""
        if not self._signal:
            return None
        signal = float(torch.stack([value.cpu() for value in self._signal]).mean())
        spread = float(torch.stack([value.cpu() for value in self._spread]).mean())
        self._signal, self._spread = [], []
        return spread / signal if signal > 0 and spread > 0 else None
