import pytest

from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.measure.places import uri_mistakes, vanishing_mistakes


def config(**fields):
    return with_fields(Config(), {name.replace("__", "."): value for name, value in fields.items()})


def test_paths_that_vanish_with_a_job_are_mistakes_and_elsewhere_they_are_not(monkeypatch, tmp_path):
    given = config(run__dir="runs/busi", data__root=str(tmp_path), cache__dir="s3://bucket/cache")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert vanishing_mistakes(given, ("data",)) == []
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    (mistake,) = vanishing_mistakes(given, ("data",))
    assert mistake.startswith("run.dir = runs/busi: relative to the job's working directory")


@pytest.mark.parametrize(("needs", "count"), [((), 1), (("data",), 2), (("predict", "checkpoint"), 4)])
def test_only_the_paths_that_the_job_uses_are_looked_at(monkeypatch, needs, count):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    fields = {"predict__input": "in", "predict__output": "out", "checkpoint": "best"}
    assert len(vanishing_mistakes(config(run__dir="runs/a", data__root="scans", **fields), needs)) == count


def test_a_key_in_a_uri_is_a_mistake_that_does_not_repeat_it():
    (mistake,) = uri_mistakes(config(run__dir="s3://AKIAKEY:geheim@bucket/run"), ())
    assert "run.dir" in mistake
    assert "geheim" not in mistake


def test_a_kind_of_storage_that_there_is_not_is_told_by_field():
    given = config(run__dir="s4://bucket/run", data__root="s4://bucket/scans")
    assert uri_mistakes(given, ("data",)) == [
        "run.dir = s4://bucket/run: there is no kind of storage called s4://",
        "data.root = s4://bucket/scans: there is no kind of storage called s4://",
    ]


def test_splits_and_included_tables_hold_no_keys_either() -> None:
    key = "s3://KEY:ab/cd@bucket"
    found = uri_mistakes(config(data__splits=f"{key}/x.csv", benchmark__include=("runs/a", f"{key}/b")), ("data",))
    assert [mistake.split(":")[0] for mistake in found] == ["data.splits", "benchmark.include, 2"]
    assert not any("ab/cd" in mistake for mistake in found)


def test_tables_that_travel_with_a_job_do_not_vanish_before_they_are_read(monkeypatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    tables = {"data__splits": "splits.csv", "benchmark__include": ("docs/tables/busi",)}
    given = config(run__dir="s3://b/run", data__root="s3://b/scans", **tables)
    assert vanishing_mistakes(given, ("data",)) == []


def test_a_key_anywhere_is_a_mistake_whatever_the_job_needs():
    """Configurations are written into checkpoints whole."""
    fields = {"finetune.encoder": "s3://AKIAKEY:geheim@bucket/encoder"}
    given = config(
        predict__input="s3://AKIAKEY:geheim@bucket/scans",
        checkpoint="s3://bucket/segmenter?X-Amz-Signature=geheim",
        benchmark__fields={"moved": fields},
        benchmark__arms=("mps_ams", "moved"),
    )
    mistakes = uri_mistakes(given, ())
    assert sorted(mistake.partition(":")[0] for mistake in mistakes) == [
        "benchmark.fields.moved.finetune.encoder", "checkpoint", "predict.input",
    ]  # fmt: skip
    assert not any("geheim" in mistake for mistake in mistakes)
