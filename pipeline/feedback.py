"""A masking ratio that listens: it moves on when the training says that it is ready.

Its state is small, goes into every checkpoint, and is fed only with numbers that are equal on any number of
workers, so that a resumed run takes the same decisions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field

from preprocessing.settings import Settings


class FeedbackSettings(Settings):
    """When the ratio takes its next step from `ratio.start` towards `ratio.end`."""

    signal: Literal["none", "plateau", "noise_scale"] = Field(
        "none",
        description="none: the ratio follows its schedule; plateau: a step whenever the loss stops falling; "
        "noise_scale: a step whenever the gradient-noise scale is low again.",
    )
    increment: float = Field(0.05, gt=0, le=0.5, description="Size of a step of the ratio.")
    patience: int = Field(
        3, ge=1, description="Observations without progress that make a plateau, and the least between steps."
    )
    tolerance: float = Field(
        0.02,
        ge=0,
        description="Relative fall of the loss that counts as progress, or rise of the noise scale that is still low.",
    )
    smoothing: float = Field(0.7, ge=0, lt=1, description="Weight of the past in the running mean of the noise scale.")


@dataclass
class FeedbackState:
    """What the rule remembers; `position` is in units of increments from the start."""

    position: int = 0
    best: float | None = None
    waited: int = 0
    smoothed: float | None = None


class FeedbackRatio:
    """Masking ratio driven by one observation an epoch."""

    def __init__(self, settings: FeedbackSettings, start: float, end: float) -> None:
        self.settings, self.start, self.end = settings, start, end
        self.state = FeedbackState()

    @property
    def ratio(self) -> float:
        """The ratio now, between start and end."""
        way = self.settings.increment * self.state.position
        if self.end >= self.start:
            return min(self.start + way, self.end)
        return max(self.start - way, self.end)

    def observe(self, loss: float, noise_scale: float | None) -> None:
        """Take an epoch's mean loss and gradient-noise scale (None where it could not be estimated)."""
        if self.settings.signal == "plateau":
            self._observe_loss(loss)
        elif self.settings.signal == "noise_scale" and noise_scale is not None:
            self._observe_noise(noise_scale)

    def _observe_loss(self, loss: float) -> None:
        state = self.state
        if state.best is None or loss < state.best * (1 - self.settings.tolerance):
            state.best, state.waited = loss, 0
            return
        state.waited += 1
        if state.waited >= self.settings.patience:
            self._step()

    def _observe_noise(self, noise_scale: float) -> None:
        state, weight = self.state, self.settings.smoothing
        state.smoothed = noise_scale if state.smoothed is None else weight * state.smoothed + (1 - weight) * noise_scale
        state.best = state.smoothed if state.best is None else min(state.best, state.smoothed)
        state.waited += 1
        if state.waited >= self.settings.patience and state.smoothed <= state.best * (1 + self.settings.tolerance):
            self._step()

    def _step(self) -> None:
        # the loss of a harder task is not comparable with that of the easier one before it
        self.state = FeedbackState(position=self.state.position + 1, smoothed=self.state.smoothed)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values, for a checkpoint's JSON."""
        return asdict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.state = FeedbackState(**state)
