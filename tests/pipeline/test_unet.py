"""The supervised anchor: its shape follows from the canvas, and it trains, saves and predicts like the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from upath import UPath

from pipeline.checkpoint import load_weights
from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.finetune import Finetuning
from pipeline.models import unet
from pipeline.models.segmenters import SegmentersSettings, build_segmenter
from pipeline.models.unet import UNet, UNetSettings, plan
from pipeline.segmentation.inference import InferenceSettings, Predictor, Segmented
from pipeline.segmentation.segmenter_file import load_segmenter, save_segmenter
from pipeline.segmentation.sliding_window import blend
from pipeline.training.history import read_history
from pipeline.training.session import LocalSession
from tests.pipeline.segmentation.test_inference import card, scan
from tests.pipeline.test_finetune import Run, run

__all__ = ["run"]
SMALL = UNetSettings(width=4, most=16, levels=4)


def test_the_plan_of_a_square_canvas_halves_both_axes_down_to_four_pixels() -> None:
    kernels, strides = plan((64, 64), levels=6)
    assert strides == [(1, 1), (2, 2), (2, 2), (2, 2), (2, 2)]  # 64, 32, 16, 8, 4
    assert set(kernels) == {(3, 3)}
    assert len(plan((64, 64), levels=3)[1]) == 3


def test_thick_slices_wait_until_the_others_are_twice_as_long() -> None:
    kernels, strides = plan((16, 96, 96), levels=6)
    assert strides == [(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)]  # (16, 24, 24) after two, then (4, 6, 6)
    assert kernels == [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)]


@pytest.mark.parametrize(
    ("size", "channels", "regions"), [((32, 48), 1, 1), ((6, 10), 2, 3), ((4, 16, 24), 2, 3), ((18, 20), 1, 2)]
)
def test_logits_at_every_pixel_and_gradients_everywhere(size: tuple[int, ...], channels: int, regions: int) -> None:
    torch.manual_seed(0)
    model = UNet(SMALL, size, channels, regions)
    logits = model(torch.rand(2, channels, *size), torch.ones(2, 1, *size, dtype=torch.bool))
    assert logits.shape == (2, regions, *size)
    logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    names = [value.data_ptr() for value in model.state_dict().values()]
    assert len(names) == len(set(names))  # nothing is stored twice


def test_padding_counts_as_nothing_and_samples_do_not_depend_on_each_other() -> None:
    torch.manual_seed(0)
    model = UNet(SMALL, (32, 32), 1, 1)
    real = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    real[..., 24:] = False
    image = torch.rand(2, 1, 32, 32)
    both = model(image, real)
    assert torch.equal(both, model(torch.where(real, image, 7.0), real))
    assert torch.allclose(both[:1], model(image[:1], real[:1]), atol=1e-5)  # also in training mode


def test_it_learns_by_the_loop_of_fine_tuning_and_predicts_from_its_file(run: Run) -> None:
    task = run.task("unet", epochs=12, validate_every=6, lr=5e-3)
    fields = {"segmenter": SegmentersSettings(kind="unet", unet=SMALL), "pretrain.method": "scratch"}
    task = replace(task, config=with_fields(task.config, fields))
    Finetuning(task, LocalSession(run.folder / "unet-checkpoints")).run()
    records = read_history(UPath(run.folder / "unet"))
    assert records[-1]["val_dsc"] > 0.8
    model, loaded = load_segmenter(run.folder / "unet" / "segmenter")
    assert isinstance(model, UNet)
    assert loaded.segmenter.kind == "unet"
    tensors, _ = load_weights(UPath(run.folder / "unet" / "segmenter"), "segmenter")
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())


def test_prediction_of_an_image_is_that_of_the_model_in_memory(tmp_path: Path) -> None:
    chosen = card(segmenter=SegmentersSettings(kind="unet", unet=SMALL))
    torch.manual_seed(1)
    model = chosen.build().eval()
    save_segmenter(UPath(tmp_path / "segmenter"), model.state_dict(), chosen)
    predictor = Predictor(tmp_path / "segmenter", InferenceSettings(mirror=False), precision="fp32")
    (found,) = predictor.segment([scan(tmp_path, "a", (32, 32), np.s_[4:20, 8:30])], "canvas")
    assert isinstance(found, Segmented)
    image = torch.from_numpy(found.image[None]).half().float()
    with torch.no_grad():
        expected = model(image, torch.ones_like(image, dtype=torch.bool)).sigmoid()[0]
    np.testing.assert_allclose(found.probability, expected.numpy(), atol=1e-5)


def test_windows_over_a_volume_larger_than_its_canvas() -> None:
    torch.manual_seed(2)
    model = UNet(SMALL, (4, 16, 16), 2, 3).eval()
    volume = torch.rand(2, 7, 30, 20)
    found = blend(lambda image, real: model(image, real).sigmoid(), volume, (4, 16, 16), 0.5, 4, 3)
    assert found.shape == (3, 7, 30, 20)
    assert ((found > 0) & (found < 1)).all()


def test_the_transformer_keeps_the_weights_that_its_seed_always_gave() -> None:
    """The choice of segmenter draws nothing: tables that were begun before it go on."""
    from pipeline.models.encoder import Encoder, EncoderSettings
    from pipeline.models.segmenter import Segmenter

    model, settings = EncoderSettings(width=16, depth=1, heads=2), SegmentersSettings(stem=4, width=8)
    torch.manual_seed(3)
    plain = Segmenter(Encoder(model, 64, 2), settings, (8, 8), 1, 1).state_dict()
    torch.manual_seed(3)
    chosen = build_segmenter(settings, model, (32, 32), (8, 8), 1, 1).state_dict()
    assert all(torch.equal(plain[name], value) for name, value in chosen.items())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "set pretrain.method=scratch"),
        ({"pretrain.method": "scratch", "finetune.encoder": "runs/x/pretrain/encoder"}, "has no encoder"),
    ],
)
def test_weights_that_have_no_place_in_it_are_a_mistake(fields: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_fields(Config(), {"segmenter.kind": "unet"} | fields)


def test_a_missing_library_is_a_mistake_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install 'mps-ams\\[unet\\]'"):
        with_fields(Config(), {"segmenter.kind": "unet", "pretrain.method": "scratch"})
