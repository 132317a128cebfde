"""The report: self-contained, whole where the stages are, plain where they are not."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from upath import UPath

from pipeline.report.checks import attention
from pipeline.report.data import ReportData, collect
from pipeline.report.page import render, write_report
from pipeline.report.panels import PREDICTION, TRUTH, segmentation_panel
from pipeline.report.wording import duration, number, setting
from pipeline.training.history import History

_LOADING = {"src", "href", "srcset", "data", "poster", "action", "background"}


class _Page(HTMLParser):
    """What a page would load, its pictures, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in _LOADING]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _metrics() -> dict[str, Any]:
    shares = ("0.1", "0.25", "0.5", "0.75")
    return {
        "data": {"cases": 13, "rejected": 1, "preprocess_seconds": 33.4, "splits": {"train": 6, "val": 2, "test": 4}},
        "selection": {
            "lesion_hit_rate": dict(zip(shares, (0.3, 0.67, 0.9, 0.97), strict=True)),
            "random": {share: float(share) for share in shares},
            "no_clusters": dict(zip(shares, (0.28, 0.63, 0.88, 0.96), strict=True)),
        },
        "pretrain": {"samples_seen": 60, "samples_per_second": 31.0, "data_wait_fraction": 0.01},
        "search": {"trials": 3, "best": {"dsc": 0.51, "mask.ratio.start": 0.6, "mask.ratio.family": "linear"}},
        "search_finetune": {"trials": 2, "best": {"dsc": 0.44, "finetune.lr": 0.0005}},
        "segmentation": {
            "test": {"dsc": 0.612, "ppv": 0.7, "sen": 0.65, "hd95": 21.4, "cases": 4, "false_positive_rate": None}
        },
    }


def _write_run(root: Path) -> None:
    config = {
        "cache": {"dir": ""},
        "pretrain": {"include_test": False, "method": "mps_ams"},
        "data": {"label_fraction": 0.5},
    }
    (root / "cache").mkdir(parents=True)
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    (root / "metrics.json").write_text(json.dumps(_metrics()))
    names = [f"benign ({i})" for i in range(6)] + [f"malignant ({i})" for i in range(6)]
    strata = [name.split()[0] for name in names]
    pd.DataFrame({"case": names, "group": names, "stratum": strata}).to_parquet(root / "cache" / "cases.parquet")
    pd.DataFrame({"case": ["<odd>"], "file": ["<odd>.png"], "reason": ["truncated"]}).to_parquet(
        root / "cache" / "rejected.parquet"
    )
    splits = ["train"] * 3 + ["val"] + ["test"] * 2
    used = [True, False, True, True, True, True]
    pd.DataFrame({"case": names, "group": names, "split": splits * 2, "labelled_used": used * 2}).to_csv(
        root / "splits.csv", index=False
    )
    pretrain = History(UPath(root / "pretrain"))
    finetune = History(UPath(root / "finetune"))
    for epoch in range(1, 4):
        pretrain.append(
            {"epoch": epoch, "samples_seen": 20 * epoch, "loss": 0.5 / epoch, "ratio": 0.7, "strength": 0.3}
            | {"masked": 0.7, "hit_rate": 0.8, "lesion_seen": 0.2, "lesion_masked": 0.1, "noise_scale": None}
            | {"lr": 1e-3, "samples_per_second": 31.0, "data_wait_fraction": 0.01}
            | ({"probe_dsc": 0.4} if epoch == 3 else {})
        )
        finetune.append({"epoch": epoch, "samples_seen": 6 * epoch, "loss": 1.0 / epoch, "val_dsc": 0.2 * epoch})
    (root / "search").mkdir()
    pd.DataFrame(
        {
            "trial": ["c", "a", "b"],
            "stage": ["finalists", "search", "search"],
            "seed": [7, 0, 0],
            "dsc": [0.51, 0.5, 0.56],  # the last was stopped early, so that it ranks behind
            "epochs": [4, 4, 2],
            "mask.ratio.start": [0.6, 0.6, 0.7],
            "mask.ratio.family": ["linear", "linear", "step"],
        }
    ).to_csv(root / "search" / "trials.csv", index=False)
    (root / "search_finetune").mkdir()
    pd.DataFrame(
        {"trial": ["d", "e"], "stage": "search", "seed": 0, "dsc": [0.44, 0.43]}
        | {"epochs": 30, "finetune.lr": [0.0005, 0.0008]}
    ).to_csv(root / "search_finetune" / "trials.csv", index=False)
    (root / "evaluate" / "pictures").mkdir(parents=True)
    pd.DataFrame(
        {"case": names[4:6] + names[10:], "stratum": ["benign"] * 2 + ["malignant"] * 2, "region": "lesion"}
        | {"dsc": [0.9, 0.3, np.nan, 0.6], "ppv": 0.7, "sen": 0.6, "hd95": 12.0}
    ).to_csv(root / "evaluate" / "cases.csv", index=False)
    image, mask = np.random.default_rng(0).random((32, 40)), np.zeros((32, 40))
    mask[8:20, 10:24] = 1
    (root / "evaluate" / "pictures" / "best_1.png").write_bytes(
        segmentation_panel(image, mask, np.roll(mask, 3), "best: benign (4), DSC 0.90")
    )
    (root / "evaluate" / "stage.json").write_text(json.dumps({"inputs": {}, "done": True, "seconds": 12.0}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run's folder; left as it is."""
    root = tmp_path_factory.mktemp("runs") / "busi"
    _write_run(root)
    return root


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    """Its report."""
    return Path(write_report(str(run))).read_text()


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    page = _Page(html)
    assert all(value.startswith(("data:image/", "#")) for value in page.loaded), page.loaded
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"@import|url\(", html)
    for picture in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html):
        svg = base64.b64decode(picture).decode()
        assert not re.findall(r'(?:href|src)="(?!#|data:)', svg)
        assert "<script" not in svg


def test_everything_of_a_whole_run_is_there(html: str) -> None:
    page = _Page(html)
    for part in (
        "0.612",  # test DSC
        "21.4",
        "research only",
        "gives no diagnosis",
        "13 cases were found",
        "<odd>.png truncated",
        "4 of train, 2 of val",
        "0.67",
        "a rule, no clusters",
        "mask.ratio.family linear",
        "60 samples seen in 3 epochs",
        "best: benign (4), DSC 0.90",
        "finetune.lr 0.0005",
        "2 trials, each a whole fine-tuning",
        "preprocess 33 s",
        "evaluate 12 s",
        "label_fraction: 0.5",
        "torch",
    ):
        assert part in page.text, part
    assert "has not run" not in page.text
    assert page.text.rindex("0.51") < page.text.rindex("0.56")
    assert html.count("<img") == 7  # six charts and a case


def test_the_trials_that_were_chosen_stand_out_wherever_they_rank(run: Path, tmp_path: Path) -> None:
    def bold(page: str) -> list[str]:
        return re.findall(r'<tr class="first"><td>(\w)</td>', page)

    copy = Path(shutil.copytree(run, tmp_path / "run"))
    table = copy / "search" / "trials.csv"
    assert bold(Path(write_report(str(copy))).read_text()) == ["c", "a", "d"]
    pd.read_csv(table).iloc[::-1].to_csv(table, index=False)
    assert bold(Path(write_report(str(copy))).read_text()) == ["a", "c", "d"]


def test_missing_stages_are_said_to_be_missing(tmp_path: Path) -> None:
    page = _Page(Path(write_report(str(tmp_path))).read_text())
    assert page.text.count("has not run in this folder") == 7
    for job in ("preprocess", "search", "pretrain", "finetune", "evaluate"):
        assert f"python -m jobs.{job}" in page.text
    assert "research only" in page.text


@pytest.mark.parametrize("stage", ["search", "pretrain", "finetune", "evaluate"])
def test_one_missing_stage_leaves_the_others(run: Path, stage: str) -> None:
    whole = collect(str(run))
    # charts take time, so only the sections beside the missing one that have none are kept
    data = replace(whole, pretrain=[], finetune=[], trials={}, scored=pd.DataFrame())
    if stage == "evaluate":
        data.metrics.pop("segmentation")
    page = _Page(render(data))
    assert f"python -m jobs.{stage}" in page.text
    assert "0.67" in page.text
    assert ("0.612" in page.text) == (stage != "evaluate")


def test_names_from_the_data_are_escaped(html: str) -> None:
    assert "&lt;odd&gt;" in html
    assert "<odd>" not in html


def test_pretraining_on_test_images_is_marked(run: Path) -> None:
    data = replace(collect(str(run)), finetune=[], trials={}, scored=pd.DataFrame())
    assert not any("include_test" in note for note in attention(data))
    data.config["pretrain"]["include_test"] = True
    assert _Page(render(data)).text.count("pretrain.include_test") == 2


def _data(**metrics: Any) -> ReportData:
    return ReportData(name="x", root="x", metrics=metrics)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (_data(data={"cases": 100, "rejected": 9}), "9 of 100 cases were rejected (9%)"),
        (_data(data={"cases": 9, "rejected": 0, "phantoms": True}), "There are phantoms among the scans"),
        (_data(segmentation={"test": {"cases": 3}}), "Only 3 test cases hold a lesion"),
        (_data(selection={"lesion_hit_rate": {"0.25": 0.26}, "random": {"0.25": 0.25}}), "no better than chance"),
        (_data(selection={"lesion_hit_rate": {"0.25": 0.5}, "no_clusters": {"0.25": 0.6}}), "worse than the ranking"),
        (
            ReportData("x", "x", pretrain=[{"loss": 0.5, "epoch": 1, "masked": 0.7, "lesion_seen": 0.3}] * 2),
            "hardly fell",
        ),
        (
            ReportData(
                "x",
                "x",
                pretrain=[
                    {"loss": 0.5, "epoch": n, "masked": 0.7, "lesion_seen": seen}
                    for n, seen in enumerate([0.3] * 3 + [0.03])
                ],
            ),
            "the encoder saw 3.0% of the lesion patches where random masks would have shown 30.0%",
        ),
        (
            _data(segmentation={"test": {"false_positive_rate": 1.0, "lesion_free_cases": 2}}),
            "a lesion in 100% of the 2 lesion-free",
        ),
        (ReportData("x", "x", scored=pd.DataFrame({"dsc": [0.0, 0.9, None]})), "1 of 2 test lesions were missed"),
    ],
)
def test_what_is_out_of_order_is_said(data: ReportData, told: str) -> None:
    assert told in " ".join(attention(data))


def test_panel_outlines_lie_on_the_masks_edge() -> None:
    image, mask = np.full((40, 40), 0.5), np.zeros((40, 40))
    mask[10:30, 10:30] = 1
    shifted = np.roll(mask, 6, axis=1)
    png = segmentation_panel(image, mask, shifted, "caption")
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.info["Description"] == "caption"
        pixels = np.array(picture.convert("RGB")).astype(int)
    right = pixels[:, -pixels.shape[0] :]  # the square panel at the right
    for colour, left_edge in ((TRUTH, 10), (PREDICTION, 16)):
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        columns = np.flatnonzero((np.abs(right - wanted).sum(-1) < 60).any(0))
        assert columns.min() / right.shape[1] * 40 == pytest.approx(left_edge, abs=1)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (40500, "40\u2009500"),
        (0.5634, "0.563"),
        (2e-5, "2.00e-05"),
        ("a", "a"),
    ],
)
def test_numbers(value: Any, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0005, "0.0005"), (0.001234, "0.001234"), (60.0, "60"), (2e-5, "2e-05"), ("linear", "linear"), (None, "–")],
)
def test_settings(value: Any, shown: str) -> None:
    assert setting(value) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(12.4, "12 s"), (600, "10 min"), (9000, "2 h 30 min")])
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
