"""Each method's own settings in the configuration, and its arm of the comparison table."""

import pytest

from pipeline.benchmark.cells import cells
from pipeline.benchmark.settings import ARMS
from pipeline.config import Config
from pipeline.configuration.fields import walk
from pipeline.configuration.resolve import load, resolve
from pipeline.methods import METHODS
from tests.pipeline.methods.samples import NAMES, config_with


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data: {root: scans}\nmethods: {byol: {momentum: 0.9}}\n")
    return path


def test_every_field_is_there_with_its_meaning():
    paths = {entry.path: entry for entry in walk(Config)}
    for name, method in METHODS.items():
        assert paths[f"methods.{name}"].info.description.count("arXiv")
        for field in method.Options.model_fields:
            assert paths[f"methods.{name}.{field}"].info.description.endswith(".")


def test_they_come_from_file_and_command_line(file):
    config = load(file, ["methods.simclr.temperature=0.5"], Config)
    assert config.methods.simclr.temperature == 0.5
    assert config.methods.byol.momentum == 0.9


def test_mistakes_are_told(file):
    words = ["methods.simclr.temprature=1", "methods.simcrl.features=9", "methods.mae.ratio=2"]
    told = "\n".join(resolve(file, words, Config).mistakes)
    assert "methods.simclr.temprature (command line): there is no such field; did you mean methods.simclr.temp" in told
    assert "methods.simcrl (command line): there is no such field; did you mean methods.simclr?" in told
    assert "methods.mae.ratio = 2 (command line): should be at most 0.95" in told


def test_an_arm_that_does_not_exist_is_told(file):
    (told,) = resolve(file, ["benchmark.arms=[mps_ams, sim]"], Config).mistakes
    assert "there is no arm 'sim', there are mps_ams" in told


def test_every_method_has_an_arm_and_all_arms_see_the_same_samples():
    arms = tuple(arm for arm in ARMS if arm != "random_75")  # which is mae
    config = config_with(
        run__dir="runs/x", benchmark__arms=arms, benchmark__seeds=(0,), mask__ratio={"family": "linear"}
    )
    found = {cell.arm: cell.config for cell in cells(config)}
    assert {cell.pretrain.method for cell in found.values()} == {*NAMES, "scratch"}
    assert len({(cell.pretrain.epochs, cell.pretrain.batch) for cell in found.values()}) == 1
    assert found["amlp"].methods.mps_ams.hard_patches > 0
    assert not found["mps_ams"].methods.mps_ams.hard_patches
    assert Config(data={"root": "x"}).benchmark.arms == ("mps_ams", "mps_only", "ams_only", "random_75", "scratch")


def test_only_a_method_with_a_schedule_is_searched():
    assert {name for name in NAMES if config_with(pretrain__method=name).searches} == {"mps_ams"}
    assert not config_with(pretrain__method="scratch").searches
