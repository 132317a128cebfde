"""Which runs the comparison table is made of, and what they share."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.benchmark.cells import cells, check_compute, equal_compute, without
from pipeline.measure.flops import Costs, step_cost
from pipeline.methods import Shape
from preprocessing.errors import ConfigError
from tests.pipeline.made_up_table import config

SHAPE = Shape(1, (32, 32), (8, 8))


def test_a_table_of_seeds_alone_lies_where_it_always_did() -> None:
    found = cells(config(benchmark__seeds=(0, 1)))
    places = [cell.config.run.dir for cell in found]
    assert places == [f"runs/x/cells/seed_{seed}/{arm}" for seed in (0, 1) for arm in ("mps_ams", "scratch")]
    assert not any(cell.config.finetune.encoder for cell in found)


def test_one_pretraining_serves_all_shares_of_labels_of_a_seed_and_fold() -> None:
    chosen = config(
        data__folds=4, data__label_fraction=0.1, benchmark__folds=(0, 2), benchmark__label_fractions=(0.1, 1.0)
    )
    found = cells(chosen)
    assert len({cell.config.run.dir for cell in found}) == len(found) == 8
    pretrained = [cell for cell in found if cell.config.pretrains]
    assert [(cell.fold, cell.labels) for cell in pretrained] == [(0, 0.1), (2, 0.1)]
    for cell in found:
        if cell.arm == "mps_ams" and cell.labels == 1.0:
            home = found[cell.needs]
            assert (home.fold, home.seed, home.arm) == (cell.fold, cell.seed, cell.arm)
            assert cell.config.finetune.encoder == f"{home.config.run.dir}/pretrain/encoder"
            assert cell.config.data.fold == home.config.data.fold == cell.fold


def test_a_share_that_is_not_compared_still_pretrains_for_the_others() -> None:
    found = cells(config(data__label_fraction=0.1, benchmark__label_fractions=(0.5,)))
    assert [(cell.arm, cell.labels, cell.counted) for cell in found] == [
        ("mps_ams", 0.1, False), ("mps_ams", 0.5, True), ("scratch", 0.5, True)
    ]  # fmt: skip


def test_arms_of_ones_own_and_mistakes_in_them() -> None:
    fields = {"unet": {"finetune.lr": 0.002}, "moved": {"finetune.encoder": "runs/y/pretrain/encoder"}}
    found = cells(config(benchmark__arms=("unet", "moved"), benchmark__fields=fields))
    assert (found[0].config.segmenter.kind, found[0].config.finetune.lr) == ("unet", 0.002)
    assert not found[1].config.pretrains
    with pytest.raises(ConfigError, match=r"scratch: there is no setting finetune\.speed"):
        cells(config(benchmark__fields={"scratch": {"finetune.speed": 1}}))
    with pytest.raises(ConfigError, match="give it to an arm of its own"):
        cells(config(finetune__encoder="runs/y/pretrain/encoder"))
    with pytest.raises(ConfigError, match="would be judged in place of every arm"):
        cells(config(checkpoint="runs/y/finetune"))
    with pytest.raises(ConfigError, match=r"scratch: finetune\.lr = -1: should be more than 0"):
        cells(config(benchmark__fields={"scratch": {"finetune.lr": -1}}))
    with pytest.raises(ConfigError, match=r"scratch: there is no setting finetune\.lr\.x"):
        cells(config(benchmark__fields={"scratch": {"finetune.lr.x": 1}}))
    sections = {"finetune": {"lr": 0.1}, "mask.ratio": {"end": 0.9}, "pretrain": {"include_test": True}}
    for section, fields in sections.items():  # would reset what it does not name, or look at test images
        with pytest.raises(ConfigError, match=rf"benchmark\.fields, mps_ams: {section} is a section"):
            cells(config(benchmark__fields={"mps_ams": {section: fields}}))
    for share in ((0.1, 0.5), (0.1,)):  # data.label_fraction is 1: its cell pretrains for the others
        with pytest.raises(ValueError, match=r"pretrain\.patience=0"):
            config(pretrain__patience=2, benchmark__label_fractions=share)


def test_two_arms_that_are_the_same_are_a_mistake() -> None:
    halves = {"benchmark__arms": ("mps_ams", "mps_only", "ams_only", "random_75")}
    with pytest.raises(ConfigError) as told:
        cells(config(**halves, benchmark__seeds=(0, 1)))  # as configured the ratio is constant: MPS-AMS without AMS
    assert [line.split(" here;")[0] for line in told.value.mistakes] == [
        "benchmark.arms: mps_only is the same as mps_ams", "benchmark.arms: random_75 is the same as ams_only"
    ]  # fmt: skip
    assert "mask.ratio.family=linear" in told.value.mistakes[0]
    assert len(cells(config(**halves, mask__ratio={"family": "linear", "start": 0.6, "end": 0.85}))) == 4
    tokens = {"segmenter.kind": "vit_unet"}  # has no image_levels
    fields = {"tokens": tokens, "fewer": tokens | {"segmenter.image_levels": 1}}
    with pytest.raises(ConfigError, match="fewer is the same as tokens"):
        cells(config(benchmark__arms=tuple(fields), benchmark__fields=fields))
    with pytest.raises(ConfigError, match="again is the same as scratch here; leave one out"):
        cells(config(benchmark__arms=("scratch", "again"), benchmark__fields={"again": {"pretrain.method": "scratch"}}))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"benchmark__fields": {"unett": {"finetune.lr": 0.1}}}, "'unett' is neither an arm of its own"),
        ({"benchmark__fields": {"scratch": {"data.label_fraction": 0.5}}}, "scratch sets data.label_fraction, which"),
        ({"benchmark__fields": {"scratch": {"finetune.classes.x": [1]}}}, "scratch sets finetune.classes.x, which"),
        ({"benchmark__fields": {"../x": {}}, "benchmark__arms": ("mps_ams", "../x")}, "not so '../x'"),
        ({"benchmark__fields": {"a|b": {}}, "benchmark__arms": ("mps_ams", "a|b")}, "letters, digits"),
        ({"benchmark__fields": {"mps_ams": {"pretrain.include_test": True}}}, "sets pretrain.include_test, which"),
        ({"benchmark__fields": {"mps_ams": {"checkpoint": "runs/y/finetune"}}}, "sets checkpoint, which"),
        ({"benchmark__fields": {"mps_ams": {"profile": "full"}}}, "sets profile, which"),
        ({"benchmark__fields": {"mps_ams": {"evaluate.mirror": False}}}, r"sets evaluate\.mirror, which"),
        ({"benchmark__folds": (0, 1)}, "set data.folds to their number"),
        ({"benchmark__folds": (0, 4), "data__folds": 4}, r"must be below data\.folds \(4\)"),
        ({"benchmark__reference": "mae"}, "the reference 'mae' is not among benchmark.arms"),
        ({"benchmark__arms": ("scratch", "scratch")}, "each may be named once"),
        ({"benchmark__seeds": (0, 1, 0)}, "each may be named once"),
    ],
)
def test_mistakes_in_what_is_compared(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        config(**fields)


def test_equal_compute_gives_each_arm_the_references_flops() -> None:
    chosen = config(benchmark__arms=("mps_ams", "simmim", "scratch"), pretrain__epochs=100)
    epochs = equal_compute(chosen, Costs(SHAPE))
    assert epochs.keys() == {"mps_ams", "simmim"}
    found = {cell.arm: cell.config for cell in cells(chosen, epochs)}
    assert found["mps_ams"].pretrain.epochs == 100
    totals = [step_cost(found[arm], SHAPE).mean * found[arm].pretrain.epochs for arm in epochs]
    assert totals[1] == pytest.approx(totals[0], rel=0.02)
    assert epochs["simmim"] < 100  # its encoder sees all patches
    own = config(benchmark__arms=("mps_ams", "mae"), benchmark__fields={"mae": {"pretrain.epochs": 7}})
    assert [cell.config.pretrain.epochs for cell in cells(own, equal_compute(own, Costs(SHAPE)))] == [
        own.pretrain.epochs, 7
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="must be a pretrained arm"):
        check_compute(config(benchmark__equal="compute", benchmark__reference="scratch"))
    check_compute(config(benchmark__reference="scratch"))  # nothing is to be equal


def test_an_encoder_that_others_need_is_pretrained_though_its_own_run_is_there() -> None:
    fields = {"data__label_fraction": 0.1, "benchmark__label_fractions": (0.1, 0.5), "benchmark__seeds": (0, 1)}
    every = cells(config(**fields))
    there = {(arm, 0, 0, 0.1) for arm in ("mps_ams", "scratch")} | {("mps_ams", 1, 0, 0.5)}
    left = without(every, there)
    found = [(*cell.place, cell.counted, cell.needs) for cell in left]
    assert found == [
        ("mps_ams", 0, 0, 0.1, False, None),
        ("mps_ams", 0, 0, 0.5, True, 0),
        ("scratch", 0, 0, 0.5, True, None),
        ("mps_ams", 1, 0, 0.1, True, None),
        ("scratch", 1, 0, 0.1, True, None),
        ("scratch", 1, 0, 0.5, True, None),
    ]
    assert without(every, set()) == every


def test_fine_tunings_take_as_many_steps_at_every_share_of_labels() -> None:
    fields = {"data__label_fraction": 0.1, "benchmark__label_fractions": (0.05, 0.1, 1.0)}
    fields |= {"finetune__epochs": 60, "finetune__validate_every": 5, "benchmark__arms": ("scratch",)}

    def rounds(**more: Any) -> dict[float, tuple[int, int]]:
        found = cells(config(**fields, **more))
        return {c.labels: (c.config.finetune.epochs, c.config.finetune.validate_every) for c in found}

    assert rounds() == {0.1: (60, 5), 0.05: (120, 10), 1.0: (6, 1)}
    assert set(rounds(benchmark__finetuning="epochs").values()) == {(60, 5)}


def test_arms_that_differ_only_in_what_their_methods_ignore_are_the_same() -> None:
    """Random masks at a fixed ratio are MAE's; a mask schedule is nothing to a method without one."""
    with pytest.raises(ConfigError, match="mae is the same as random_75"):
        cells(config(benchmark__arms=("random_75", "mae")))
    fields = {"again": {"pretrain.method": "mae", "mask.ratio.start": 0.5, "methods.byol.memory": 0.5}}
    with pytest.raises(ConfigError, match="again is the same as mae"):
        cells(config(benchmark__arms=("mae", "again"), benchmark__fields=fields))
    fields = {"near": {"mask.ratio.start": 0.76, "mask.ratio.level": 0.05}, "mae": {"methods.mae.ratio": 0.76}}
    assert len(cells(config(benchmark__arms=("near", "mae"), benchmark__fields=fields))) == 2  # trained at .75
    fields = {"mae": {"methods.mae.ratio": 0.6}}
    assert len(cells(config(benchmark__arms=("random_75", "mae"), benchmark__fields=fields))) == 2
