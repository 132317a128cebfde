"""What makes a finished stage out of date, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoint import save_weights
from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.inputs import finetune_inputs, finetune_search_inputs, pretrain_inputs, search_inputs

DATA = {"scans": "c", "splits": "s"}


def config(**fields: Any) -> Config:
    return with_fields(Config(), {name.replace("__", "."): value for name, value in fields.items()})


def encoder_at(folder: Path, value: float) -> str:
    save_weights(folder, {"weight": torch.full((2,), value)}, {"kind": "encoder"})
    return str(folder)


def test_another_runs_encoder_is_known_by_its_weights_and_not_by_its_place(tmp_path: Path) -> None:
    def inputs(place: str, **fields: Any) -> dict[str, Any]:
        return finetune_inputs(config(finetune__encoder=place, **fields), DATA)

    first, moved = encoder_at(tmp_path / "a", 1.0), encoder_at(tmp_path / "b", 1.0)
    assert inputs(first) == inputs(moved) == inputs(first, pretrain__epochs=7)  # its own pretraining does not count
    assert inputs(first) != inputs(encoder_at(tmp_path / "c", 2.0))
    assert inputs(first) != inputs(first, finetune__epochs=7)


@pytest.mark.parametrize(
    ("method", "mask", "epochs"), [("mps_ams", True, True), ("mae", False, True), ("scratch", False, False)]
)
def test_a_training_is_done_again_only_for_what_it_depends_on(method: str, mask: bool, epochs: bool) -> None:
    def changes(**fields: Any) -> bool:
        before, after = (config(pretrain__method=method, **more) for more in ({}, fields))
        changed = pretrain_inputs(before, DATA) != pretrain_inputs(after, DATA)
        assert changed == (finetune_inputs(before, DATA) != finetune_inputs(after, DATA))
        return changed

    assert changes(mask__random_share=0.5) == changes(selection__clusters=32) == mask
    assert changes(pretrain__epochs=7) == changes(decoder__depth=3) == epochs
    assert changes(model__depth=2)


def test_a_run_that_was_finished_before_these_settings_existed_stays_finished() -> None:
    found = finetune_inputs(config(), DATA)
    assert "encoder" not in found
    assert "encoder" not in found["finetune"]
    assert found["segmenter"] == {"stem": 8, "width": 64}
    assert finetune_inputs(config(segmenter__convs=2), DATA)["segmenter"]["convs"] == 2


def test_settings_that_change_no_result_leave_every_stage_finished() -> None:
    same = {"pretrain__accumulate": 2, "pretrain__pictures": 0, "loader__prefetch": 4, "finetune__accumulate": 2}
    same |= {"search__concurrent": 1, "search__cpus_per_trial": 2, "pretrain__keep_checkpoints": 5}
    same |= {"evaluate__mirror": False, "resources__workers": 2}
    one, two = config(), config(**same)
    for inputs in (search_inputs, pretrain_inputs, finetune_search_inputs, finetune_inputs):
        assert inputs(one, DATA) == inputs(two, DATA)
    # a search's trials are as long as it says, and know nothing of the search of fine-tunings
    other = config(pretrain__epochs=7, search__finetune=True)
    assert search_inputs(other, DATA) == search_inputs(one, DATA)
    assert pretrain_inputs(other, DATA) != pretrain_inputs(one, DATA)
    for fields in ({"search__trials": 9}, {"loader__streams": 2}, {"search__epochs": 40}):
        assert search_inputs(config(**fields), DATA) != search_inputs(one, DATA)
    assert finetune_search_inputs(config(search__epochs=40), DATA) == finetune_search_inputs(one, DATA)
