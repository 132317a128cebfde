"""What sections ask of each other, and which fields a result depends on."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import Config
from pipeline.configuration.fields import walk
from pipeline.search_settings import SearchSettings
from preprocessing.settings import NO_INFLUENCE
from tests.pipeline.methods.samples import config_with


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"resources__workers": 8}, r"batch = 8 is too small for resources\.workers = 8: .* at least 16"),
        ({"resources__max_workers": 8}, r"too small for resources\.max_workers = 8: .* at least 16"),
        ({"mask__feedback__signal": "noise_scale", "pretrain__noise_every": 0}, "never measures it"),
        ({"pretrain__patience": 2, "pretrain__probe_every": 0}, "probe_every = 0 makes none"),
    ],
)
def test_settings_that_do_not_go_together(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        config_with(finetune__batch=8, **fields)


@pytest.mark.parametrize(
    ("strength", "selects"),
    [
        ({"family": "constant", "start": 0.0, "end": 0.3}, False),  # a constant stays at its start
        ({"family": "constant", "start": 0.3, "end": 0.0}, True),
        ({"family": "linear", "start": 0.0, "end": 0.3}, True),
        ({"family": "piecewise", "start": 0.3, "points": ((0, 0), (1, 0))}, False),
        ({"family": "piecewise", "points": ((0, 0), (1, 0.1))}, True),
    ],
)
def test_scores_are_used_where_the_strength_is_ever_above_zero(strength: dict[str, Any], selects: bool) -> None:
    fields = {f"mask__strength__{name}": value for name, value in strength.items()}
    assert config_with(**fields).mask.selects == selects


def test_the_runs_of_a_search_count_no_more_finalists_than_trials() -> None:
    assert SearchSettings(trials=1, finalists=2, repeats=2).runs == 1
    assert SearchSettings(trials=3, finalists=5, repeats=2).runs == 9
    assert SearchSettings(trials=8, finalists=2, repeats=2).runs == 12


def test_only_what_a_result_depends_on_is_its_content() -> None:
    other = {"pretrain__accumulate": 2, "pretrain__pictures": 0, "pretrain__checkpoint_every": 1}
    other |= {"loader__prefetch": 9, "loader__readers": 1, "evaluate__batch": 3, "cache__dir": "x"}
    one, two = config_with(pretrain__method="mae"), config_with(pretrain__method="mae", **other)
    for section in ("pretrain", "loader", "evaluate", "cache"):
        assert getattr(one, section).content() == getattr(two, section).content()
        assert getattr(one, section) != getattr(two, section)
    assert one.pretrain.content() != config_with(pretrain__method="mae", pretrain__augment__blur=1).pretrain.content()


def test_content_is_the_whole_section_but_for_what_is_marked() -> None:
    marked = {entry.path for entry in walk(Config) if entry.info.json_schema_extra == NO_INFLUENCE}
    assert {"finetune.accumulate", "cache.compression", "pretrain.keep_checkpoints"} <= marked
    config = Config()
    for name in ("cache", "loader", "pretrain", "finetune", "evaluate", "mask", "model"):
        whole = config.model_dump(mode="json")[name]
        for path in marked:
            section, _, field = path.partition(".")
            if section == name:
                whole.pop(field)
        assert getattr(config, name).content() == whole
