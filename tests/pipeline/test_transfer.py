"""Starting from another run's encoder: what is then trained, and what makes a finished fine-tuning out of date."""

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
from pipeline.models.encoder import EncoderSettings
from pipeline.runfolder import RunFolder
from pipeline.stages import Pipeline
from pipeline.training.session import LocalSession
from preprocessing.errors import RunError
from tests.pipeline.test_finetune import MODEL, Run, run

__all__ = ["run"]


def pipeline(folder: Path, **fields: Any) -> Pipeline:
    """A run that has its data, without a cluster."""
    named = {name.replace("__", "."): value for name, value in fields.items()}
    found = Pipeline(with_fields(Config(run={"dir": str(folder)}), named), RunFolder(str(folder)), "")
    found._data_inputs = lambda: {"cache": "c", "splits": "s"}  # type: ignore[method-assign]
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


def test_it_is_known_by_its_weights_and_not_by_its_place(tmp_path: Path) -> None:
    def inputs(place: str, **fields: Any) -> dict[str, Any]:
        return pipeline(tmp_path / "run", finetune__encoder=place, **fields)._finetune_inputs()

    first, moved = encoder_at(tmp_path / "a", 1.0), encoder_at(tmp_path / "b", 1.0)
    assert inputs(first) == inputs(moved) == inputs(first, pretrain__epochs=7)  # its own pretraining does not count
    assert inputs(first) != inputs(encoder_at(tmp_path / "c", 2.0))
    assert inputs(first) != inputs(first, finetune__epochs=7)


@pytest.mark.parametrize(
    ("method", "mask", "epochs"), [("mps_ams", True, True), ("mae", False, True), ("scratch", False, False)]
)
def test_a_training_is_done_again_only_for_what_it_depends_on(
    method: str, mask: bool, epochs: bool, tmp_path: Path
) -> None:
    def changes(**fields: Any) -> bool:
        before, after = (pipeline(tmp_path, pretrain__method=method, **more) for more in ({}, fields))
        changed = before._pretrain_inputs() != after._pretrain_inputs()
        assert changed == (before._finetune_inputs() != after._finetune_inputs())
        return changed

    assert changes(mask__random_share=0.5) == changes(selection__clusters=32) == mask
    assert changes(pretrain__epochs=7) == changes(decoder__depth=3) == epochs
    assert changes(model__depth=2)


def test_a_run_that_was_finished_before_these_settings_existed_stays_finished(tmp_path: Path) -> None:
    found = pipeline(tmp_path)._finetune_inputs()
    assert "encoder" not in found
    assert "encoder" not in found["finetune"]
    assert found["segmenter"] == {"stem": 8, "width": 64}
    assert pipeline(tmp_path / "more", segmenter__convs=2)._finetune_inputs()["segmenter"]["convs"] == 2


@pytest.mark.parametrize("stage", ["finetune", "search_finetune"])
def test_no_segmenter_is_made_of_an_encoder_that_was_pretrained_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(Pipeline, "_needs_labels", lambda _: None)
    before = pipeline(tmp_path, search__finetune=True)
    with before.folder.stage("pretrain", before._pretrain_inputs()):
        pass
    before._needs_encoder()
    after = pipeline(tmp_path, search__finetune=True, pretrain__epochs=7)
    with pytest.raises(RunError, match=r"no pretraining in .* with these scans and settings; python -m jobs\.pretrain"):
        getattr(after, stage)()
    pipeline(tmp_path, pretrain__method="scratch")._needs_encoder()


def test_settings_that_change_no_result_leave_every_stage_finished(tmp_path: Path) -> None:
    same = {"pretrain__accumulate": 2, "pretrain__pictures": 0, "loader__prefetch": 4, "finetune__accumulate": 2}
    same |= {"search__concurrent": 1, "search__cpus_per_trial": 2, "pretrain__keep_checkpoints": 5}
    one, two = pipeline(tmp_path), pipeline(tmp_path, **same)
    for name in ("_search_inputs", "_pretrain_inputs", "_finetune_search_inputs", "_finetune_inputs"):
        assert getattr(one, name)() == getattr(two, name)()
    # a search's trials are as long as it says, and know nothing of the search of fine-tunings
    other = pipeline(tmp_path, pretrain__epochs=7, search__finetune=True)
    assert other._search_inputs() == one._search_inputs()
    assert other._pretrain_inputs() != one._pretrain_inputs()
    for fields in ({"search__trials": 9}, {"loader__streams": 2}, {"search__epochs": 40}):
        assert pipeline(tmp_path, **fields)._search_inputs() != one._search_inputs()
    assert pipeline(tmp_path, search__epochs=40)._finetune_search_inputs() == one._finetune_search_inputs()


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
