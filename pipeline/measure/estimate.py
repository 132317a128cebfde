"""How fast this machine trains the configured models: a few steps on made-up tensors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.methods import METHODS, Method, Shape, build_method
from pipeline.models.segmenters import build_segmenter
from pipeline.segmentation.losses import segmentation_loss
from pipeline.training.augment import augment
from pipeline.training.loader import Batch
from pipeline.training.precision import Autocast

if TYPE_CHECKING:
    from pipeline.config import Config

_BATCH, _FEW = 8, 2  # samples of a step; the segmenter's keep every pixel's activations
_STEPS, _ENOUGH_S = 4, 10.0  # enough to tell minutes from hours


def model_of(config: Config, channels: int) -> Method:
    """The configured pretraining model; the default one where none is pretrained."""
    name = config.pretrain.method if config.pretrain.method in METHODS else next(iter(METHODS))
    return build_method(name, config, Shape(channels, config.cache.size, config.cache.patch))


def parameters(module: nn.Module) -> int:
    """Trainable numbers of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def device_name(config: Config) -> str:
    """What would train here, in words."""
    if config.resources.device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def pretraining_speed(model: Method, config: Config) -> float:
    """Samples a second of one device, forward and backward, as they are half way through the training."""
    device = config.resources.device
    model = model.to(device)
    batch = made_up(model.shape, device)
    ratio, strength = model.ratio(0.5) or 0.0, model.strength(0.5) or 0.0
    return _speed(lambda: model([batch] * model.views, ratio, strength, 0).loss.mean(), _BATCH, config, device)


def finetuning_speed(config: Config, channels: int) -> float:
    """Samples a second of one device: augmentation, forward and backward, every weight learning."""
    cache, settings, device = config.cache, config.finetune, config.resources.device
    regions, dims = len(settings.classes), len(cache.size)
    model = build_segmenter(config.segmenter, config.model, cache.size, cache.patch, channels, regions).to(device)
    image = torch.rand(_FEW, channels, *cache.size, device=device)
    real = torch.ones(_FEW, 1, *cache.size, dtype=torch.bool, device=device)
    label, position = real.byte(), torch.arange(_FEW, device=device)

    def loss() -> Tensor:
        some, lesion, there = augment(image, label, real, position, 0, settings.augment, (1.0,) * dims)
        target = lesion.bool().expand(-1, regions, *cache.size)
        return segmentation_loss(model(some, there), target, there, settings.dice_weight).mean()

    return _speed(loss, _FEW, config, device)


def _speed(loss: Callable[[], Tensor], samples: int, config: Config, device: torch.device) -> float:
    autocast = Autocast(config.resources.precision, device)
    seconds: list[float] = []
    started = time.perf_counter()
    while len(seconds) < 2 or (len(seconds) <= _STEPS and time.perf_counter() - started < _ENOUGH_S):
        began = time.perf_counter()
        with autocast():
            value = loss()
        value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return samples / min(seconds[1:])  # the first step also allocates


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
