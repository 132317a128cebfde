"""Starting from another run's encoder: what is then trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from upath import UPath

from pipeline.checkpoint import save_weights
from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.finetune import Finetuning
from pipeline.inputs import pretrain_inputs
from pipeline.models.encoder import EncoderSettings
from pipeline.runfolder import RunFolder
from pipeline.stages import Pipeline
from pipeline.training.session import LocalSession
from preprocessing.errors import RunError
from tests.pipeline.test_finetune import MODEL, Run, run

__all__ = ["run"]
DATA = {"scans": "c", "splits": "s"}


def pipeline(folder: Path, **fields: Any) -> Pipeline:
    """A run that has its data, without a cluster."""
    named = {name.replace("__", "."): value for name, value in fields.items()}
    found = Pipeline(with_fields(Config(run={"dir": str(folder)}), named), RunFolder(str(folder)), "")
    found.__dict__["_data"] = DATA
    return found


def encoder_at(folder: Path, value: float) -> str:
    save_weights(folder, {"weight": torch.full((2,), value)}, {"kind": "encoder"})
    return str(folder)


def test_fine_tuning_starts_where_it_is_told(tmp_path: Path) -> None:
    own = pipeline(tmp_path)._finetune_task(UPath(tmp_path / "f"))
    assert own.encoder == str(tmp_path / "pretrain" / "encoder")
    assert pipeline(tmp_path, pretrain__method="scratch")._finetune_task(UPath(tmp_path / "f")).encoder is None
    for method in ("mps_ams", "scratch"):
        other = pipeline(tmp_path, pretrain__method=method, finetune__encoder="gs://x/encoder")
        assert other._finetune_task(UPath(tmp_path / "f")).encoder == "gs://x/encoder"


def test_nothing_is_pretrained_or_searched_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = pipeline(tmp_path, finetune__encoder=encoder_at(tmp_path / "other", 1.0))
    other.pretrain()
    other.search()
    assert "starts from the encoder at" in capsys.readouterr().out
    assert not (tmp_path / "pretrain").exists()


@pytest.mark.parametrize("stage", ["finetune", "search_finetune"])
def test_no_segmenter_is_made_of_an_encoder_that_was_pretrained_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(Pipeline, "_needs_labels", lambda _: None)
    before = pipeline(tmp_path, search__finetune=True)
    with before.folder.stage("pretrain", pretrain_inputs(before.config, DATA)):
        pass
    before._needs_encoder()
    after = pipeline(tmp_path, search__finetune=True, pretrain__epochs=7)
    with pytest.raises(RunError, match=r"no pretraining in .* with these scans and settings; python -m jobs\.pretrain"):
        getattr(after, stage)()
    pipeline(tmp_path, pretrain__method="scratch")._needs_encoder()


def test_an_encoder_for_other_channels_is_resized_and_a_foreign_one_refused(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.models.encoder import Encoder

    torch.manual_seed(0)
    settings = EncoderSettings(**MODEL)
    encoder = Encoder(settings, token_dim=3 * 64, dims=2)
    meta = {"kind": "encoder", "model": settings.model_dump(), "shape": {"channels": 3, "patch": (8, 8)}}
    save_weights(run.folder / "rgb", encoder.state_dict(), meta)
    training = Finetuning(run.task("rgb_run", run.folder / "rgb"), LocalSession(run.folder / "r"))
    assert "resized: embed.weight (16, 192) -> (16, 64)" in capsys.readouterr().out
    expected = encoder.embed.weight.view(16, 3, 64).sum(1)
    assert torch.allclose(training.learner.model.encoder.embed.weight, expected)
    save_weights(run.folder / "foreign", {"other": torch.zeros(1)}, meta)
    with pytest.raises(RunError, match="at least 90% are asked for"):
        Finetuning(run.task("foreign_run", run.folder / "foreign"), LocalSession(run.folder / "r"))


def test_splits_for_pretraining_and_testing_are_the_same_for_every_share_of_labels() -> None:
    from preprocessing.splits import SplitSettings, make_splits
    from tests.preprocessing.test_splits import table

    for folds, fold in ((0, 0), (4, 2)):
        parts = [
            make_splits(table(120, 2, 10), SplitSettings(label_fraction=share, folds=folds, fold=fold), 5)
            for share in (0.05, 0.2, 1.0)
        ]
        assert all(part.table["split"].equals(parts[0].table["split"]) for part in parts)
        assert all(part.pretraining() == parts[0].pretraining() for part in parts)
        assert all(part.labelled("test") == parts[0].labelled("test") for part in parts)
        few, some, every = (set(part.labelled("train")) for part in parts)
        assert few < some < every  # fewer labels are among the more: the points of a curve differ by nothing else
