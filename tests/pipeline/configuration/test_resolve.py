"""Configuration: precedence of its sources, and mistakes told all at once with the nearest name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field, model_validator
from rich.console import Console

from pipeline.configuration.fields import print_help, walk
from pipeline.configuration.mistakes import redact
from pipeline.configuration.resolve import dump, load, resolve
from preprocessing.errors import ConfigError
from preprocessing.settings import Settings


class Run(Settings):
    dir: str = Field("", description="Folder of the run.")
    seed: int = Field(0, ge=0, description="Seed of everything.")
    verbose: bool = Field(True, description="Say more.")
    gpu: Literal["auto", "yes", "no"] = Field("auto", description="Use GPUs.")


class Data(Settings):
    root: str = Field(description="Folder of the scans.")
    layout: Literal["busi", "manifest"] = Field("busi", description="Layout.")
    classes: dict[str, tuple[int, ...]] = Field({"lesion": ()}, description="Regions.")


class Schedule(Settings):
    start: float = Field(0.0, ge=0, le=0.95, description="At the beginning.")
    end: float = Field(0.0, ge=0, le=0.95, description="At the end.")


class Mask(Settings):
    ratio: Schedule = Field(Schedule(start=0.75, end=0.75), description="Masking ratio.")
    strength: Schedule = Field(Schedule(start=0.3, end=0.3), description="Selection strength.")


class Cache(Settings):
    size: tuple[int, int] = Field((128, 128), description="Canvas.")
    patch: int | None = Field(8, description="Patch.")

    @model_validator(mode="after")
    def _divides(self) -> Cache:
        if self.patch and self.size[0] % self.patch:
            raise ValueError(f"patch {self.patch} does not divide {self.size[0]}")
        return self


class Config(Settings):
    profile: str = Field("small", description="Profile.")
    run: Run = Field(Run(), description="The run.")
    data: Data = Field(description="The scans.")
    cache: Cache = Field(Cache(), description="The cache.")
    mask: Mask = Field(Mask(), description="Masking.")


FILE = """
data: {root: scans}
run: {seed: 1, gpu: no}
mask:
  ratio: {end: 0.9}
profiles:
  small: {run: {seed: 2}, cache: {size: [64, 64]}}
  full: {run: {seed: 3}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "busi.yaml"
    path.write_text(FILE)
    return path


def _mistakes(path: Path, *words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, words, Config)
    return caught.value.mistakes


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "busi.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("words", "seed"),
    [([], 2), (["profile=full"], 3), (["profile=full", "run.seed=4"], 4), (["run.seed=4", "run.seed=5"], 5)],
)
def test_what_is_said_later_wins(file: Path, words: list[str], seed: int) -> None:
    assert load(file, words, Config).run.seed == seed


def test_file_alone_may_choose_the_profile(tmp_path: Path) -> None:
    assert load(_write(tmp_path, FILE + "profile: full\n"), [], Config).run.seed == 3


def test_run_dir_is_named_after_the_file(file: Path) -> None:
    assert load(file, [], Config).run.dir == "runs/busi"
    assert load(file, ["run.dir=s3://b/x"], Config).run.dir == "s3://b/x"


def test_section_set_in_part_keeps_the_rest_of_its_parents_default(file: Path) -> None:
    mask = load(file, ["mask.strength.start=0.5"], Config).mask
    assert (mask.ratio.start, mask.ratio.end) == (0.75, 0.9)
    assert (mask.strength.start, mask.strength.end) == (0.5, 0.3)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("cache.size=[32, 16]", (32, 16)),
        ("cache.patch=null", None),
        ("cache.patch=", None),
        ("cache.patch=4", 4),
        ("data.root=s3://bucket/a=b", "s3://bucket/a=b"),
        ("data.root=2024-01-31", "2024-01-31"),
        ("data.root=007", "007"),
        ("data.root=", ""),
        ("data.root=no", "no"),
        ("run.verbose=no", False),
        ("run.verbose=on", True),
        ("run.gpu=yes", "yes"),
        ("mask.ratio.start=1e-2", 0.01),
        ("mask.ratio={start: 0.5}", Schedule(start=0.5, end=0.9)),
        ("data.classes={tumour: [1, 4]}", {"tumour": (1, 4)}),
    ],
)
def test_values_are_yaml(file: Path, word: str, value: object) -> None:
    found: object = load(file, [word], Config)
    for name in word.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == value


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    path = _write(tmp_path, "data: {layuot: busi}\nrun: {seed: -1}\ncache: {size: [8, x]}\n")
    mistakes = _mistakes(path, "mask.ratio.start=1.2", "nonsense", "data.root=[x", "strength=1", "profile.small=1")
    text = "\n".join(mistakes)
    for part in (
        "data.layuot (busi.yaml, line 1): there is no such field; did you mean data.layout?",
        "run.seed = -1 (busi.yaml, line 2): should be at least 0",
        "cache.size[1] = x (busi.yaml, line 3): should be a whole number",
        "mask.ratio.start = 1.2 (command line): should be at most 0.95",
        "nonsense (command line): should look like key=value",
        "data.root=[x (command line): the value is not valid YAML",
        "strength (command line): there is no such field; did you mean mask.strength?",
        "data.root (busi.yaml, line 1): must be set; Folder of the scans.",
    ):
        assert part in text
    assert len(mistakes) == 9, text


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("mask.ratoi.start=1", "mask.ratio"),
        ("seed=1", "run.seed"),
        ("start=1", "mask.ratio.start or mask.strength.start"),
        ("run.sead=1", "run.seed"),
        ("Data.root=x", "data"),
        ("data.size=[1,1]", "cache.size"),
    ],
)
def test_nearest_name_anywhere_in_the_tree(file: Path, word: str, meant: str) -> None:
    assert f"did you mean {meant}?" in _mistakes(file, word)[0]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("data.layout=Bussi", "data.layout = Bussi (command line): should be 'busi' or 'manifest'; did you mean busi?"),
        ("profile=fulll", "profile = fulll: busi.yaml has no such profile; did you mean full?"),
        ("cache=3", "cache is a section; set one of its fields: cache.patch, cache.size"),
        ("cache.patch=x", "cache.patch = x (command line): should be a whole number"),
        ("cache.patch=7", "cache (command line): patch 7 does not divide 64"),
        ("mask.ratio.start=.nan", "mask.ratio.start = nan (command line): should be"),
        ("run.seed=1.5", "run.seed = 1.5 (command line): should be a whole number"),
    ],
)
def test_what_would_be_right(file: Path, word: str, told: str) -> None:
    assert told in _mistakes(file, word)[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: {root: [}\n", "is not valid YAML"),
        ("- a\n- b\n", "should hold sections"),
        ("data: {root: x}\ndata: {root: y}\n", "data (busi.yaml, line 2): is set twice, first in line 1"),
        ("data: {root: x}\nprofiles: [small]\n", "profiles (busi.yaml): should be a mapping"),
        ("data: {root: x}\nprofiles: {small: 3}\n", "profiles.small (busi.yaml): should hold sections"),
        ("data: {root: x}\nprofiles: {small: {run: {sed: 1}}}\n", "run.sed (busi.yaml, line 2, profile small)"),
    ],
)
def test_faulty_files(tmp_path: Path, text: str, told: str) -> None:
    assert told in "\n".join(_mistakes(_write(tmp_path, text)))


def test_missing_file_names_the_nearest(file: Path) -> None:
    assert _mistakes(file.with_name("bussi.yaml"))[0].endswith(f"did you mean {file}?")


def test_what_is_left_can_be_checked_further(file: Path) -> None:
    resolution = resolve(file, ["mask.ratio.start=2", "data.root=elsewhere"], Config)
    assert resolution.mistakes
    assert resolution.config is not None
    assert resolution.config.data.root == "elsewhere"


def test_dump_resolves_and_hides_credentials(file: Path) -> None:
    text = dump(load(file, ["data.root=s3://user:secret@host/b"], Config))
    assert "secret" not in text
    tree = yaml.safe_load(text)
    assert tree["data"]["root"] == "s3://***@host/b"
    assert tree["cache"] == {"size": [64, 64], "patch": 8}


def test_mistakes_hide_credentials(file: Path) -> None:
    assert "secret" not in "\n".join(_mistakes(file, "data.layout=s3://user:secret@host", "data.rot=s3://a:secret@h"))


def test_help_lists_every_field_with_default_and_meaning() -> None:
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_help(Config, console)
    lines = console.export_text().splitlines()
    for entry in walk(Config):
        if not entry.models:
            line = next(line for line in lines if line.split()[:1] == [entry.path])
            assert str(entry.info.description).split()[0] in line
    assert any("mask.strength.start" in line and "0.3" in line for line in lines)  # the parent's default
    assert any("data.root" in line and "(must be set)" in line for line in lines)


LAYOUTS = """
data: {root: scans, layout: busi}
cache: {size: [64, 64], patch: 8}
layouts:
  busi: {data: {root: ultrasound}}
  manifest: {data: {root: table}, cache: {patch: 16}, run: {dir: elsewhere}}
profiles:
  small: {cache: {size: [96, 96]}}
"""


def test_what_holds_for_one_layout_stands_between_the_file_and_the_profile(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(LAYOUTS)
    plain, other = (load(file, words, Config) for words in ([], ["data.layout=manifest"]))
    assert (plain.data.root, plain.cache.patch, plain.cache.size, plain.run.dir) == (
        "ultrasound",
        8,
        (96, 96),
        "runs/a",
    )
    assert (other.data.root, other.cache.patch, other.cache.size, other.run.dir) == ("table", 16, (96, 96), "elsewhere")
    assert load(file, ["data.layout=manifest", "data.root=mine"], Config).data.root == "mine"


@pytest.mark.parametrize("layouts", ["[busi]", "{busi: 3}"])
def test_layouts_that_are_no_mapping_are_a_mistake(tmp_path: Path, layouts: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"data: {{root: scans}}\nlayouts: {layouts}\n")
    found = resolve(file, ["data.layout=busi"], Config).mistakes
    assert any("layouts (a.yaml): should be a mapping" in mistake for mistake in found)


def test_a_mistake_in_a_layout_says_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(LAYOUTS.replace("patch: 16", "pach: 16"))
    (mistake,) = resolve(file, ["data.layout=manifest"], Config).mistakes
    assert "cache.pach" in mistake
    assert "layout manifest" in mistake


def test_names_keys_and_signatures_are_not_repeated():
    assert redact("s3://KEY:ab/cd+SECRET@bucket/x.csv") == "s3://***@bucket/x.csv"
    assert redact("https://h/x?a=1&X-Amz-Signature=abc&b=2") == "https://h/x?a=1&X-Amz-Signature=***&b=2"
    for plain in ("s3://bucket/a/b, ask me@x.y", "gs://bucket/a?version=3", "/data/me@x"):
        assert redact(plain) == plain
