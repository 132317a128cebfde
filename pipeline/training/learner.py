"""A model and what updates it: optimiser, number format, averaging over workers, running mean of the weights."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.training.optim import parameter_groups
from pipeline.training.precision import Autocast, ResourceSettings
from pipeline.training.session import Session, together
from pipeline.training.state import pack, unpack

M = TypeVar("M", bound=nn.Module)


class UpdateSettings(Protocol):
    """The fields of a training's settings that its updates need."""

    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def ema(self) -> float: ...


class Learner(Generic[M]):
    """Updates a model together with the other workers of the group.

    Args:
        session: the group.
        model: moved to the session's device.
        settings: learning rate, weight decay, clipping, decay of the running mean.
        resources: number format and compilation.
        layer_decay: see `parameter_groups`.
        betas: AdamW's.

    Attributes:
        model: the model itself; `trained` is what to call in training; `autocast` the context for its forward pass.
    """

    def __init__(
        self,
        session: Session,
        model: M,
        settings: UpdateSettings,
        resources: ResourceSettings,
        layer_decay: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.model: M = model.to(session.device)
        self._session, self._clip = session, settings.clip
        groups = parameter_groups(model, settings.lr, settings.weight_decay, layer_decay)
        self.optimiser = torch.optim.AdamW(groups, lr=settings.lr, betas=betas)
        self.average = None
        if settings.ema:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        self.autocast = Autocast(resources.precision, session.device)
        self.trained = together(session, model)
        if resources.compile:
            self.trained = torch.compile(self.trained)  # type: ignore[assignment]

    @property
    def smoothed(self) -> M:
        """The running mean of the weights where there is one, else the model."""
        return self.model if self.average is None else cast(M, self.average.module)

    @property
    def rate(self) -> float:
        """Learning rate of the first group, what lies nearest to the output."""
        return float(self.optimiser.param_groups[0]["lr"])

    def set_rate(self, rate: float, frozen: bool = False) -> None:
        """Set every group's rate from the schedule's; a frozen encoder gets none."""
        for group in self.optimiser.param_groups:
            group["lr"] = 0.0 if frozen and group["encoder"] else rate * group["scale"]

    def backward(self, loss: Tensor) -> None:
        """Add gradients of this worker's part of the global batch's mean loss (its sum over the batch's size)."""
        # DDP averages over the workers: times their number, the sum of the parts is the exact global mean
        self.autocast.scaler.scale(loss * self._session.workers).backward()

    def update(self) -> None:
        """Clip, step, clear the gradients, move the running mean."""
        self.autocast.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self.autocast.scaler.step(self.optimiser)
        self.autocast.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def gradients(self) -> list[Tensor]:
        """Copies of the gradients as they are."""
        return [p.grad.clone() for p in self.model.parameters() if p.grad is not None]

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs, but for `scaler_state`."""
        return pack(self.model, self.optimiser, self.average)

    def scaler_state(self) -> dict[str, Any]:
        """The loss scaler's state as plain numbers, empty where nothing is scaled."""
        return self.autocast.scaler.state_dict()

    def restore(self, tensors: dict[str, Tensor], scaler: dict[str, Any]) -> None:
        """Go on from `tensors` and `scaler_state`."""
        unpack(tensors, self.model, self.optimiser, self.average)
        if scaler:
            self.autocast.scaler.load_state_dict(scaler)
