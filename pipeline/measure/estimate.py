"""How fast this machine trains the configured model: a few steps on made-up tensors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.methods import METHODS, Method, Shape, build_method
from pipeline.training.loader import Batch
from pipeline.training.precision import Autocast

if TYPE_CHECKING:
    from pipeline.config import Config

_BATCH, _STEPS = 8, 4  # enough to tell minutes from hours
_SEGMENTER = 2.0  # cost of a fine-tuning step, decoder and augmentation included, over the encoder's alone


@dataclass(frozen=True)
class Speed:
    """Samples a second of one device, forward and backward."""

    pretrain: float
    finetune: float
    device: str


def model_of(config: Config, channels: int) -> Method:
    """The configured pretraining model; the default one where none is pretrained."""
    name = config.pretrain.method if config.pretrain.method in METHODS else next(iter(METHODS))
    return build_method(name, config, Shape(channels, config.cache.size, config.cache.patch))


def parameters(module: nn.Module) -> int:
    """Trainable numbers of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def measure(model: Method, config: Config) -> Speed:
    """Time a few steps as they are half way through the training."""
    device = torch.device("cuda" if torch.cuda.is_available() and config.resources.gpu != "no" else "cpu")
    model = model.to(device)
    batch = made_up(model.shape, device)
    autocast = Autocast(config.resources.precision, device)
    ratio, strength = model.ratio(0.5) or 0.0, model.strength(0.5) or 0.0
    coords = model.shape.coords().to(device)

    def pretrain() -> Tensor:
        return model([batch] * model.views, ratio, strength, 0).loss.mean()

    def encode() -> Tensor:
        return model.encoder(batch.patches, coords).float().square().mean()

    pretraining = _samples_per_second(pretrain, autocast, device)
    finetuning = _samples_per_second(encode, autocast, device) / _SEGMENTER
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return Speed(pretraining, finetuning, name)


def _samples_per_second(loss: Callable[[], Tensor], autocast: Autocast, device: torch.device) -> float:
    seconds = []
    for _ in range(1 + _STEPS):
        began = time.perf_counter()
        with autocast():
            value = loss()
        value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return _BATCH / min(seconds[1:])  # the first step also allocates


def made_up(shape: Shape, device: torch.device, samples: int = _BATCH) -> Batch:
    """Samples of random patches, all of them real, without labels."""
    tokens = math.prod(shape.grid)
    generator = torch.Generator().manual_seed(0)
    return Batch(
        position=torch.arange(samples, device=device),
        sample=np.arange(samples),
        patches=torch.rand(samples, tokens, shape.token_dim, generator=generator).to(device),
        real=torch.ones(samples, tokens, shape.pixels, dtype=torch.bool, device=device),
        valid=torch.full((samples, tokens), 255, dtype=torch.uint8, device=device),
        label=torch.zeros(samples, tokens, shape.pixels, dtype=torch.uint8, device=device),
        labelled=torch.zeros(samples, dtype=torch.bool, device=device),
        scores=torch.rand(samples, tokens, generator=generator).to(device),
    )
