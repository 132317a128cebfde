"""The U-Net with tokens: where they come in, that they are read, and that a pretrained encoder reaches it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from upath import UPath

from pipeline.checkpoint import load_weights
from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.finetune import Finetuning
from pipeline.models import unet
from pipeline.models.encoder import Encoder, EncoderSettings
from pipeline.models.segmenters import SegmentersSettings
from pipeline.models.token_unet import TokenUNet
from pipeline.models.unet import UNetSettings
from pipeline.segmentation.segmenter_file import load_segmenter
from pipeline.training.history import read_history
from pipeline.training.session import LocalSession
from tests.pipeline.test_finetune import Run, run

__all__ = ["run"]
SMALL = UNetSettings(width=4, most=16, levels=4)
ENCODER = EncoderSettings(width=24, depth=2, heads=2)


def build(size: tuple[int, ...], patch: tuple[int, ...], channels: int = 1, regions: int = 1) -> TokenUNet:
    torch.manual_seed(0)
    encoder = Encoder(ENCODER, channels * math.prod(patch), len(patch))
    return TokenUNet(encoder, SMALL, size, patch, channels, regions)


@pytest.mark.parametrize(
    ("size", "patch", "level"),
    [
        ((64, 64), (8, 8), 3),  # 64, 32, 16, 8: the tokens' own grid
        ((64, 64), (4, 4), 2),
        ((64, 64), (16, 16), 3),  # no level is as coarse: the last one, tokens enlarged
        ((48, 48), (6, 6), 3),  # 8 x 8 tokens, between 12 and 6 pixels: made smaller
        ((8, 32, 32), (2, 8, 8), 3),  # (8, 32, 32), (8, 16, 16), (4, 8, 8), (4, 4, 4)
    ],
)
def test_tokens_come_in_at_the_first_level_that_is_no_finer(
    size: tuple[int, ...], patch: tuple[int, ...], level: int
) -> None:
    model = build(size, patch, channels=2, regions=3)
    assert model.level == level
    logits = model(torch.rand(2, 2, *size), torch.ones(2, 1, *size, dtype=torch.bool))
    assert logits.shape == (2, 3, *size)
    logits.square().sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in still if "qkv.bias" not in name] == []  # attention ignores what all keys share


def test_without_tokens_it_is_the_plain_unet() -> None:
    model = build((32, 32), (8, 8))
    image, real = torch.rand(2, 1, 32, 32), torch.ones(2, 1, 32, 32, dtype=torch.bool)
    with_tokens = model(image, real)
    torch.nn.init.zeros_(model.bridge.weight)
    torch.nn.init.zeros_(model.bridge.bias)
    assert torch.equal(model(image, real), model.unet(image, real))
    assert not torch.allclose(with_tokens, model(image, real), atol=1e-3)


def test_padding_reaches_neither_the_tokens_nor_the_unet() -> None:
    model = build((32, 32), (8, 8)).eval()
    real = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    real[..., 24:] = False
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(model(image, real), model(torch.where(real, image, 7.0), real))


def test_it_starts_from_a_pretrained_encoder_learns_and_is_read_from_its_file(run: Run) -> None:
    run.write_encoder("pretrained", ENCODER)
    task = run.task("token_unet", run.folder / "pretrained", epochs=12, validate_every=6, lr=5e-3, frozen=1.0)
    chosen = SegmentersSettings(kind="vit_unet", unet=SMALL)
    task = replace(task, config=with_fields(task.config, {"segmenter": chosen}))
    Finetuning(task, LocalSession(run.folder / "token-unet-checkpoints")).run()
    assert read_history(UPath(run.folder / "token_unet"))[-1]["val_dsc"] > 0.8
    model, loaded = load_segmenter(run.folder / "token_unet" / "segmenter")
    assert isinstance(model, TokenUNet)
    assert loaded.segmenter.kind == "vit_unet"
    assert model.token_scale.ne(1).any()
    pretrained, _ = load_weights(UPath(run.folder / "pretrained"), "encoder")
    kept = model.encoder.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in pretrained.items())  # frozen throughout


def test_it_needs_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.config.unet_available", lambda: False)
    with pytest.raises(Exception, match="vit_unet need MONAI"):
        with_fields(Config(), {"segmenter.kind": "vit_unet"})
    assert "vit_unet" in unet.MISSING
