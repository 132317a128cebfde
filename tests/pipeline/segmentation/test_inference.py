"""Evaluation and prediction on files: sizes, thresholds, regions, rejected files; an oracle takes the model's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from upath import UPath

from pipeline.evaluate import EvaluateSettings, evaluate
from pipeline.models.encoder import EncoderSettings
from pipeline.models.segmenters import SegmentersSettings
from pipeline.predict import PredictSettings, overlay, predict
from pipeline.scans import find_files, find_scans
from pipeline.segmentation.inference import InferenceSettings, Predictor, Segmented
from pipeline.segmentation.segmenter_file import SegmenterCard, load_segmenter, save_segmenter
from preprocessing.cache_settings import CacheSettings
from preprocessing.case import Case, Rejection
from preprocessing.errors import ConfigError, RunError
from preprocessing.intensity import IntensitySettings
from preprocessing.layouts import DataSettings


class Bright(nn.Module):
    """In place of a segmenter: bright pixels are lesion (twice, where two regions are asked for)."""

    def __init__(self, regions: int) -> None:
        super().__init__()
        self.regions = regions

    def forward(self, image: Tensor, real: Tensor) -> Tensor:
        return ((image[:, :1] - 0.5) * 40).repeat(1, self.regions, *[1] * (image.ndim - 2))


FULL = IntensitySettings(low=0, high=100)


def card(**changes: Any) -> SegmenterCard:
    fields: dict[str, Any] = {
        "modalities": ("image",),
        "model": EncoderSettings(width=16, depth=1, heads=2),
        "segmenter": SegmentersSettings(stem=4, width=8),
        "classes": {"lesion": ()},
        "thresholds": (0.5,),
        "cache": CacheSettings(size=(32, 32), intensity=dict.fromkeys(["image", "CT", "PT"], FULL)),
        "trained": {"seed": 0},
    }
    fields |= changes
    rest = {"least_sizes": (0.0,) * len(fields["thresholds"]), "least_unit": "share"}
    return SegmenterCard(**(rest | fields))


def predictor(folder: Path, **changes: Any) -> Predictor:
    """A real checkpoint on disk, its network replaced by the oracle."""
    description = card(**changes)
    save_segmenter(UPath(folder), description.build().state_dict(), description)
    found = Predictor(folder, InferenceSettings(batch=2), precision="fp32")
    found.model = Bright(len(description.classes))  # type: ignore[assignment]
    return found


def scan(folder: Path, name: str, size: tuple[int, int], box: tuple[slice, slice] | None, label: int = 255) -> Case:
    """An image with a bright box, and its mask."""
    image, mask = np.full(size, 20, np.uint8), np.zeros(size, np.uint8)
    image[0, 0] = 230  # so that an image without lesion is not constant
    if box is not None:
        image[box], mask[box] = 230, label
    Image.fromarray(image).save(folder / f"{name}.png")
    Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return Case(name, name, "benign", {"image": str(folder / f"{name}.png")}, (str(folder / f"{name}_mask.png"),))


@pytest.mark.parametrize("resolution", ["source", "canvas"])
def test_an_oracle_scores_nearly_one_at_any_size(tmp_path: Path, resolution: Any) -> None:
    cases = [
        scan(tmp_path, "wide", (64, 96), np.s_[20:40, 30:60]),
        scan(tmp_path, "tall", (90, 33), np.s_[60:80, 6:24]),
        scan(tmp_path, "small", (16, 16), np.s_[4:10, 4:12]),
    ]
    settings = EvaluateSettings(resolution=resolution, pictures=1)
    result = evaluate(predictor(tmp_path / "model"), cases, settings, UPath(tmp_path / "out"))
    assert result.summary["cases"] == 3
    assert result.summary["resolution"] == resolution
    assert result.summary["false_positive_rate"] is None
    assert result.cases["dsc"].min() > 0.9
    if resolution == "source":
        assert result.cases["lesion"].tolist() == [600, 360, 48]
    written = pd.read_csv(tmp_path / "out" / "cases.csv")
    assert written["case"].tolist() == ["wide", "tall", "small"]
    assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) == 3


def test_bad_files_are_set_aside_and_lesion_free_cases_counted_apart(tmp_path: Path) -> None:
    good = scan(tmp_path, "good", (40, 40), np.s_[10:30, 10:30])
    free = scan(tmp_path, "free", (40, 40), None)
    broken = scan(tmp_path, "broken", (40, 40), np.s_[10:30, 10:30])
    Path(broken.images["image"]).write_bytes(b"\x89PNG cut short")
    other = scan(tmp_path, "other", (40, 40), np.s_[10:30, 10:30])
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(other.labels[0])
    unlabelled = Case("bare", "bare", "", good.images, ())
    seen: list[int] = []
    result = evaluate(
        predictor(tmp_path / "model"), [broken, good, free, other, unlabelled], EvaluateSettings(), progress=seen.append
    )
    assert [rejection.case for rejection in result.rejected] == ["broken", "other"]
    assert (result.summary["cases"], result.summary["lesion_free_cases"]) == (1, 1)
    assert result.summary["false_positive_rate"] == 1.0  # the one bright pixel
    assert seen == [1, 2, 3, 4]
    with pytest.raises(RunError, match="no labelled case"):
        evaluate(predictor(tmp_path / "model"), [unlabelled], EvaluateSettings())


def test_the_least_lesion_of_an_image_is_a_share_of_it(tmp_path: Path) -> None:
    case = scan(tmp_path, "a", (40, 50), np.s_[10:30, 10:30])
    mask = np.asarray(Image.open(case.labels[0])).copy()
    mask[35, 40:44] = 255  # 4 of 2000 pixels: 0.002
    Image.fromarray(mask).save(case.labels[0])
    model = predictor(tmp_path / "model")
    for least, lesions, sensitivity in ((0.0, 2, 0.5), (0.002, 2, 0.5), (0.0021, 1, 1.0), (0.3, 0, None)):
        summary = evaluate(model, [case], EvaluateSettings(least_lesion=least)).summary
        assert (summary["lesions"], summary["lesion_sen"], summary["cases"]) == (lesions, sensitivity, 1)


def test_regions_are_judged_apart(tmp_path: Path) -> None:
    whole = scan(tmp_path, "whole", (32, 32), np.s_[8:24, 8:24], label=1)
    part = scan(tmp_path, "part", (32, 32), np.s_[8:24, 8:24], label=2)
    model = predictor(tmp_path / "model", classes={"whole": (), "core": (2,)}, thresholds=(0.5, 0.5))
    result = evaluate(model, [whole, part], EvaluateSettings())
    assert result.cases.set_index(["case", "region"])["lesion"].to_dict() == {
        ("whole", "whole"): 256, ("whole", "core"): 0, ("part", "whole"): 256, ("part", "core"): 256
    }  # fmt: skip
    assert result.summary["regions"]["core"]["cases"] == 1
    assert result.summary["regions"]["core"]["false_positive_rate"] == 1.0
    each = [part["dsc"] for part in result.summary["regions"].values()]
    assert result.summary["dsc"] == pytest.approx(np.mean(each))


def test_the_threshold_of_the_checkpoint_is_used(tmp_path: Path) -> None:
    probability = np.array([[[0.2, 0.4], [0.6, 0.8]]])
    found = Segmented(Case("a", "a", "", {}, ()), np.zeros((1, 2, 2), np.float32), None, probability)
    assert predictor(tmp_path / "a", thresholds=(0.3,)).masks(found).sum() == 3
    assert predictor(tmp_path / "b", thresholds=(0.7,)).masks(found).sum() == 1


def test_components_below_the_least_size_of_the_checkpoint_are_removed(tmp_path: Path) -> None:
    probability = np.zeros((1, 10, 10), np.float32)
    probability[0, 0, 0] = probability[0, 5:7, 5:7] = 1
    found = Segmented(Case("a", "a", "", {}, ()), np.zeros((1, 10, 10), np.float32), None, probability)
    for share, left in ((0.01, 5), (0.02, 4), (0.04, 4), (0.05, 0)):
        assert predictor(tmp_path / f"{share}", least_sizes=(share,)).masks(found).sum() == left


def test_another_number_of_modalities_is_rejected(tmp_path: Path) -> None:
    case = scan(tmp_path, "one", (32, 32), None)
    (found,) = predictor(tmp_path / "model", modalities=("CT", "PT")).segment([case])
    assert isinstance(found, Rejection)
    assert "has the modalities image; the segmenter takes CT, PT" in found.reason


def test_mirroring_averages_with_the_mirror_image(tmp_path: Path) -> None:
    description = card()
    torch.manual_seed(0)
    save_segmenter(UPath(tmp_path / "model"), description.build().state_dict(), description)
    case = scan(tmp_path, "case", (32, 32), np.s_[3:20, 1:9])
    flipped = scan(tmp_path, "flipped", (32, 32), np.s_[3:20, 23:31])
    image = np.asarray(Image.open(case.images["image"]))[:, ::-1]
    Image.fromarray(np.ascontiguousarray(image)).save(flipped.images["image"])

    def both(mirror: bool) -> list[np.ndarray]:
        applied = Predictor(tmp_path / "model", InferenceSettings(mirror=mirror), precision="fp32")
        found = list(applied.segment([case, flipped]))
        return [item.probability for item in found if isinstance(item, Segmented)]

    plain, turned = both(mirror=False)
    assert np.abs(plain - turned[..., ::-1]).max() > 1e-3
    mean, same = both(mirror=True)
    assert np.allclose(mean, (plain + turned[..., ::-1]) / 2, atol=1e-5)
    assert np.allclose(mean, same[..., ::-1], atol=1e-5)


def test_predict_writes_masks_at_each_images_own_size(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    (scans / "deep").mkdir(parents=True)
    scan(scans, "wide", (50, 80), np.s_[10:30, 20:60])
    scan(scans / "deep", "tall", (70, 41), np.s_[10:30, 10:30])
    (scans / "zero.png").write_bytes(b"")
    (scans / "notes.txt").write_text("not an image")
    settings = PredictSettings(input=str(scans), probabilities=True)
    out = tmp_path / "out"
    table, rejected = predict(predictor(tmp_path / "model"), find_files(str(scans)), settings, UPath(out))
    assert table["case"].tolist() == ["deep/tall", "wide"]
    assert [(r.case, r.reason) for r in rejected] == [("zero", "the file is empty (0 bytes)")]
    assert pd.read_csv(out / "rejected.csv")["case"].tolist() == ["zero"]
    for name, size, box in (("wide", (50, 80), np.s_[10:30, 20:60]), ("deep/tall", (70, 41), np.s_[10:30, 10:30])):
        mask = np.asarray(Image.open(out / "masks" / f"{name}.png"))
        assert mask.shape == size
        assert set(np.unique(mask)) == {0, 255}
        inside = np.zeros(size, bool)
        inside[box] = True
        inside[0, 0] = mask[0, 0] > 0  # the bright corner pixel
        assert ((mask > 0) != inside).mean() < 0.05
        probability = np.asarray(Image.open(out / "probabilities" / f"{name}.png"))
        assert probability.dtype == np.uint16
        assert np.array_equal(probability > 32767, mask > 0)
        assert np.asarray(Image.open(out / "overlays" / f"{name}.png")).shape == (*size, 3)
    row = table.set_index("case").loc["wide"]
    assert row["lesion_pixels"] == (np.asarray(Image.open(out / "masks" / "wide.png")) > 0).sum()
    assert row["max_probability"] > 0.9


def test_what_can_be_predicted(tmp_path: Path) -> None:
    scan(tmp_path, "a", (8, 8), None)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.bmp")
    assert [case.id for case in find_files(str(tmp_path))] == ["a.bmp", "a.png"]
    assert [case.id for case in find_files(str(tmp_path / "a.png"))] == ["a"]
    (tmp_path / "empty").mkdir()
    for wrong, message in (("", "not set"), (f"{tmp_path}/none", "no folder"), (f"{tmp_path}/empty", "no image")):
        with pytest.raises(ConfigError, match=message):
            find_scans(wrong, DataSettings(), 1)[0]


def test_masks_are_known_by_the_end_of_their_name_and_told(tmp_path: Path, capsys: Any) -> None:
    for name in (
        "a (1).png",
        "a (1)_mask.png",
        "a (1)_mask_1.png",
        "b_mask.nii.gz",
        "b_brain_masked.nii.gz",
        "c_masks.png",
    ):
        (tmp_path / name).touch()
    assert [case.id for case in find_files(str(tmp_path))] == ["a (1)", "b_brain_masked", "c_masks"]
    assert "3 files called *_mask are taken for masks" in capsys.readouterr().out


@pytest.mark.parametrize("spelt", ["out", "../scans/out", "link"])
def test_a_second_run_takes_no_result_of_the_first_for_a_scan(tmp_path: Path, capsys: Any, spelt: str) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    scan(scans, "a", (50, 80), np.s_[10:30, 20:60])
    (scans / "out").mkdir()
    (tmp_path / "link").symlink_to(scans / "out")
    output = UPath((tmp_path if spelt == "link" else scans) / spelt)
    settings = PredictSettings(probabilities=True)
    for left_out in ("", "predict: 3 files left out"):
        cases = find_scans(str(scans), DataSettings(), 1, output)[0]
        assert [case.id for case in cases] == ["a"]
        assert left_out in (said := capsys.readouterr().out)
        assert bool(left_out) == ("left out" in said)
        predict(predictor(tmp_path / "model"), cases, settings, output)
    assert len(find_scans(str(scans), DataSettings(), 1)[0]) == 4
    assert [case.id for case in find_scans(str(scans / "out" / "overlays"), DataSettings(), 1, output)[0]] == ["a"]


def test_no_mask_is_left_of_a_scan_that_cannot_be_read_any_more(tmp_path: Path) -> None:
    scans, output = tmp_path / "scans", UPath(tmp_path / "out")
    scans.mkdir()
    for name in ("a", "b"):
        scan(scans, name, (50, 80), np.s_[10:30, 20:60])
    model, settings = predictor(tmp_path / "model"), PredictSettings(probabilities=True)
    predict(model, find_scans(str(scans), DataSettings(), 1)[0], settings, output)
    scan(scans, "b_lesion", (50, 80), np.s_[10:30, 20:60])  # called as one of b's regions
    (scans / "b.png").write_bytes(b"damaged")
    _, rejected = predict(model, find_scans(str(scans), DataSettings(), 1)[0], settings, output)
    assert [rejection.case for rejection in rejected] == ["b"]
    assert sorted(file.name for file in output.rglob("*.png")) == ["a.png"] * 3 + ["b_lesion.png"] * 3
    aside = Rejection("a", "a.png", "not all modalities are there")
    _, rejected = predict(
        model, find_scans(str(scans / "b_lesion.png"), DataSettings(), 1)[0], settings, output, None, [aside]
    )
    assert [rejection.case for rejection in rejected] == list(pd.read_csv(output / "rejected.csv")["case"]) == ["a"]
    assert sorted(file.name for file in output.rglob("*.png")) == ["b_lesion.png"] * 3


def test_results_may_not_lie_between_the_scans(tmp_path: Path) -> None:
    scan(tmp_path, "a", (8, 8), None)
    for output in (tmp_path, tmp_path / "." / ".." / tmp_path.name):
        with pytest.raises(ConfigError, match=r"predict\.output = .*predict\.output=.*/predictions"):
            find_scans(str(tmp_path), DataSettings(), 1, UPath(output))[0]
    assert len(find_scans(f"{tmp_path}/a.png", DataSettings(), 1, UPath(tmp_path))[0]) == 1  # no folder is searched


def test_results_in_an_object_store_are_no_scans_either() -> None:
    root = UPath("memory://predict-output")
    for name in ("a.png", "out/masks/a.png", "output/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    found = find_scans(str(root), DataSettings(), 1, root / "out")[0]
    assert [case.id for case in found] == ["a", "output/b"]
    assert len(find_scans(str(root), DataSettings(), 1, UPath("/predict-output/out"))[0]) == 3
    with pytest.raises(ConfigError, match="is the folder of predict"):
        find_scans(str(root), DataSettings(), 1, root)[0]


def test_overlay_tints_the_mask_alone() -> None:
    image, mask = np.array([[0.0, 1.0]]), np.array([[False, True]])
    assert overlay(image, mask).tolist() == [[[0, 0, 0], [255, 199, 166]]]


def test_a_damaged_segmenter_is_refused(tmp_path: Path) -> None:
    description = card()
    tensors = description.build().state_dict()
    tensors.pop("head.bias")
    save_segmenter(UPath(tmp_path), tensors, description)
    with pytest.raises(RunError, match=r"head\.bias"):
        load_segmenter(tmp_path)
    with pytest.raises(RunError, match="no checkpoint"):
        load_segmenter(tmp_path / "none")
