"""Sums over an epoch, kept on the device and added over the workers once, at the epoch's end."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.training.loader import Batch
from pipeline.training.session import Session, sum_over_workers
from pipeline.training.tokens import lesion_patches

_NAMES = ("loss", "samples", "masked", "real", "lesion", "lesion_masked", "labelled_masked")


class EpochMeter:
    """Loss, masking and what the encoder sees of the lesions."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(_NAMES), dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, batch: Batch, loss: Tensor, masked: Tensor | None) -> None:
        """Count a worker's part of a step.

        Args:
            batch: the part; its labels serve this log only.
            loss: float [b], loss of each sample.
            masked: bool [b, N], or None for a method that does not mask.
        """
        counts = [loss.sum(), torch.tensor(float(len(loss)), device=loss.device)]
        if masked is not None:
            lesion = lesion_patches(batch.label, batch.valid) & batch.labelled[:, None]
            counts += [
                masked.sum(),
                batch.real_tokens.sum(),
                lesion.sum(),
                (lesion & masked).sum(),
                (masked & batch.labelled[:, None]).sum(),
            ]
        self._sums[: len(counts)] += torch.stack([c.double() for c in counts])

    def totals(self, session: Session) -> list[float]:
        """The sums so far over all workers, for a checkpoint within an epoch; all workers call it together."""
        return sum_over_workers(session, self._sums.clone()).tolist()

    def restore(self, totals: list[float]) -> None:
        """Go on from those sums; on one worker only, since they are of all."""
        self._sums = torch.tensor(totals, dtype=self._sums.dtype, device=self._sums.device)

    def take(self, session: Session) -> dict[str, float | None]:
        """Means over the epoch and all workers, and start anew.

        Returns:
            loss; masked: share of the real patches that were masked; hit_rate: share of the lesion patches that
            were masked; lesion_seen: share that the encoder saw; lesion_masked: share of the masked patches that
            are lesion (the last three None without labels, all four where nothing is masked).
        """
        sums = dict(zip(_NAMES, sum_over_workers(session, self._sums).tolist(), strict=True))
        self._sums = torch.zeros_like(self._sums)

        def share(part: str, whole: str) -> float | None:
            return sums[part] / sums[whole] if sums[whole] else None

        hit = share("lesion_masked", "lesion")
        return {
            "loss": share("loss", "samples"),
            "masked": share("masked", "real"),
            "hit_rate": hit,
            "lesion_seen": None if hit is None else 1 - hit,
            "lesion_masked": share("lesion_masked", "labelled_masked") if hit is not None else None,
        }
