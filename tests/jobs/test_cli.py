"""The command line of the jobs: exit status, all mistakes in one message, help, dry run."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import cli
from pipeline.config import Config
from pipeline.configuration.fields import walk
from pipeline.runfolder import RunFolder
from pipeline.training.history import History
from preprocessing.errors import ConfigError, RunError

ROOT = Path(__file__).resolve().parents[2]
DOC = """Does nothing.

    python -m jobs.run CONFIG.yaml
"""


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three tiny cases in BUSI's layout."""
    folder = tmp_path / "scans" / "benign"
    folder.mkdir(parents=True)
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 255, (40, 50), np.uint8)
        Image.fromarray(image).save(folder / f"benign ({number}).png")
        Image.fromarray((image > 200).astype(np.uint8) * 255).save(folder / f"benign ({number})_mask.png")
    return tmp_path / "scans"


@pytest.fixture
def file(tmp_path: Path, scans: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration for them, on a machine without GPU."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = tmp_path / "small.yaml"
    path.write_text(
        f"data: {{root: '{scans}'}}\nrun: {{dir: '{tmp_path / 'run'}'}}\n"
        "cache: {size: [32, 32]}\nmodel: {width: 24, depth: 1, heads: 3}\n"
    )
    return path


def _run(job: object, *words: object, needs: tuple[str, ...] = ("data",)) -> int:
    return cli.run(job, DOC, needs, [str(word) for word in words])  # type: ignore[arg-type]


def test_job_gets_the_resolved_configuration(file: Path) -> None:
    given: list[Config] = []
    assert _run(given.append, file, "run.seed=7", "cache.patch=[16,16]") == 0
    assert (given[0].run.seed, given[0].cache.patch, given[0].model.width) == (7, (16, 16), 24)


def _raise(error: BaseException) -> object:
    def job(_: Config) -> None:
        raise error

    return job


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (
            ConfigError(["a is wrong", "b is wrong"]),
            2,
            "2 mistakes, nothing was started:\n  - a is wrong\n  - b is wrong\n",
        ),
        (RunError("case 3: file x: truncated"), 1, "failed: case 3: file x: truncated\n"),
        (
            PermissionError(13, "Permission denied", "/scans/a.png"),
            1,
            "failed: PermissionError: [Errno 13] Permission denied: '/scans/a.png'\n",
        ),
        (MemoryError(), 1, "failed: the memory of this machine is too small (no more was to be had)\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command to go on\n"),
    ],
)
def test_exit_status(
    file: Path, error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(_raise(error), file) == status
    assert capsys.readouterr().err == told


def test_unexpected_errors_keep_their_traceback(file: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _run(_raise(ZeroDivisionError()), file)


def test_an_error_wrapped_by_a_worker_is_shown_without_its_traceback(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrapped(RunError):  # as ray.get raises it
        cause = RunError("disk is full")

    assert _run(_raise(Wrapped("Traceback (most recent call last): ...")), file) == 1
    assert capsys.readouterr().err == "failed: disk is full\n"


def test_all_mistakes_in_one_message(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("mask.ratio.start=1.2", "data.roots=x", "cache.patch=[7,7]", "data.root=/no/such/folder", "--dryrun", "x")
    assert _run(_raise(AssertionError("started")), file, *words) == 2
    told = capsys.readouterr().err
    for part in (
        "mask.ratio.start = 1.2 (command line): should be at most 0.95",
        "data.roots (command line): there is no such field; did you mean data.root?",
        "patch [7, 7] does not divide size [32, 32]",
        "there is no folder /no/such/folder",
        "--dryrun (command line): there is no such option; did you mean --dry-run?",
        "x (command line): should look like key=value",
    ):
        assert part in told
    assert told.startswith("6 mistakes, nothing was started:")
    assert "Traceback" not in told


def test_missing_configuration_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_raise(AssertionError("started")), file.with_name("smal.yaml")) == 2
    assert f"did you mean {file}?" in capsys.readouterr().err


def test_no_configuration_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_raise(AssertionError("started")), "run.seed=1") == 2
    assert "no configuration file is given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("data.root={tmp}", "none of the folders benign, malignant, normal is in"),
        ("data.dims=3", "cache.size = [32, 32]: data.dims = 3 needs 3 numbers"),
        ("data.splits={tmp}/no.csv", "data.splits: there is no file"),
        ("run.dir={tmp}/small.yaml", "small.yaml: is a file; give a folder"),
        ("finetune.encoder={tmp}", "finetune.encoder: no checkpoint at"),
        ("resources.workers=4096", "this machine has"),
        ("search.cpus_per_trial=4096", "search.cpus_per_trial = 4096: this machine has"),
        ("resources.gpu=yes", "need a GPU each and this machine has 0"),
    ],
)
def test_what_can_be_found_before_work_starts(
    file: Path, tmp_path: Path, word: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["pretrain.batch=8192", "finetune.batch=8192"] if "workers" in word else []
    assert _run(_raise(AssertionError("started")), file, word.format(tmp=tmp_path), *more) == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.startswith("1 mistake,")


def test_a_cluster_may_have_what_this_machine_has_not(file: Path) -> None:
    words = ("resources.gpu=yes", "resources.workers=64", "pretrain.batch=128", "finetune.batch=128")
    assert _run(lambda _: None, file, *words, "run.address=head:6379") == 0


def test_only_what_a_job_needs_is_asked_for(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs = ("checkpoint", "predict")
    words = ("data.root=", "predict.input=/no/such", "checkpoint=/nor/this")
    assert _run(_raise(AssertionError("started")), file, *words, needs=needs) == 2
    told = capsys.readouterr().err
    assert "predict.input: there is no folder or file /no/such" in told
    assert "checkpoint = /nor/this: there is no such folder" in told
    assert "data.root" not in told
    words = ("data.root=", f"predict.input={tmp_path}/scans/benign")
    assert _run(lambda _: None, file, *words, needs=needs) == 0
    same = (*words, f"predict.output={tmp_path}/scans/benign")
    assert _run(_raise(AssertionError("started")), file, *same, needs=needs) == 2
    assert "predict.output = " in capsys.readouterr().err


def test_dry_run_tells_and_starts_nothing(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert _run(_raise(AssertionError("started")), file, "--dry-run", "run.seed=5") == 0
    told = " ".join(capsys.readouterr().out.split())  # a long path breaks lines elsewhere
    for part in ("seed: 5", "3, 3 of them labelled", "6, 2 a case", "16 (4 x 4 patches of 8 x 8 pixels)", "encoder"):
        assert part in told
    for part in ("GiB memory free", "this machine only", "GiB free", "samples/s", "pretraining"):
        assert part in told
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_a_prediction_needs_no_data_set(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("data.root=", f"predict.input={tmp_path}/scans/benign", "--dry-run")
    assert _run(_raise(AssertionError("started")), file, *words, needs=("checkpoint", "predict")) == 0
    told = "".join(capsys.readouterr().out.split())  # a long path breaks lines elsewhere
    assert "segmenter(notthereyet)" in told
    assert re.search(r"tosegment\d+in", told)
    assert "samples/s" not in told


@pytest.mark.parametrize(("load", "told"), [(3.1, "3.1 of 2 cores"), (0.4, "")])
def test_a_dry_run_on_a_busy_machine_says_that_its_times_are_too_long(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, load: float, told: str
) -> None:
    monkeypatch.setattr("pipeline.measure.preflight.psutil.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("pipeline.measure.preflight.os.cpu_count", lambda: 2)
    monkeypatch.setattr("pipeline.measure.preflight.torch.cuda.is_available", lambda: False)
    assert _run(_raise(AssertionError("started")), file, "--dry-run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert told in out
    assert ("too long" in out) == bool(told)


def test_help_lists_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_raise(AssertionError("started")), "--help") == 0
    told = capsys.readouterr().out
    assert "python -m jobs.run CONFIG.yaml [key=value ...]" in told
    words = set(told.split())
    assert not [entry.path for entry in walk(Config) if not entry.models and entry.path not in words]
    assert not [entry.path for entry in walk(Config) if not entry.models and not entry.info.description]


@pytest.mark.parametrize(
    "name", ["run", "preprocess", "search", "pretrain", "finetune", "evaluate", "predict", "benchmark"]
)
def test_every_job_is_an_entry_point(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["job", str(tmp_path / "none.yaml"), "run.sed=1"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(f"jobs.{name}", run_name="__main__")
    assert left.value.code == 2
    told = capsys.readouterr()
    assert "none.yaml: there is no such file" in told.err
    assert "did you mean run.seed?" in told.err
    assert not told.out


def test_a_mistake_ends_the_process_with_status_2_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.run", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_status_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(str(tmp_path), say=lambda _: None)
    (tmp_path / "config.yaml").write_text("{}")
    folder.merge_metrics({"segmentation": {"test": {"dsc": 0.5, "ppv": 0.6, "sen": 0.7, "hd95": None, "cases": 4}}})
    with folder.stage("pretrain", {"seed": 1}) as stage:
        History(stage.folder).append({"epoch": 3, "samples_seen": 30, "loss": 0.25, "probe_dsc": 0.4})
    told = _status(tmp_path, monkeypatch, capsys)
    assert told[0] == 0
    assert re.search(r"pretrain +done .*epoch 3, loss 0.250, probe_dsc 0.400", told[1])
    assert re.search(r"evaluate +not begun", told[1])
    assert "test: dsc 0.500, ppv 0.600, sen 0.700, hd95 – over 4 cases" in told[1]
    assert "run again: would begin with selection" in told[1]
    (tmp_path / "config.yaml").write_text("search: {enabled: false}")
    with folder.stage("selection", {}):
        pass
    with pytest.raises(KeyboardInterrupt), folder.stage("finetune", {}):
        raise KeyboardInterrupt
    History(folder.root / "finetune").append({"epoch": 7, "samples_seen": 30, "loss": 0.25})
    told = " ".join(_status(tmp_path, monkeypatch, capsys)[1].split())
    assert "would go on with finetune, from its last checkpoint at or before epoch 7" in told


@pytest.mark.parametrize(
    ("settings", "stages", "next_one"),
    [
        ("pretrain: {method: mae}", ["selection", "pretrain", "finetune", "evaluate"], "pretrain"),
        ("pretrain: {method: scratch}", ["selection", "finetune", "evaluate"], "finetune"),
        (
            "search: {finetune: true}",
            ["selection", "search", "pretrain", "search_finetune", "finetune", "evaluate"],
            "search",
        ),
    ],
)
def test_status_knows_which_stages_a_run_has(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: str,
    stages: list[str],
    next_one: str,
) -> None:
    (tmp_path / "config.yaml").write_text(settings)
    with RunFolder(str(tmp_path), say=lambda _: None).stage("selection", {}):
        pass
    told = _status(tmp_path, monkeypatch, capsys)[1]
    assert re.findall(r"^(\w+) +(?:done|not begun)", told, re.MULTILINE) == stages
    assert f"run again: would begin with {next_one}" in told


def test_status_of_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _status(tmp_path, monkeypatch, capsys)[0] == 2


def _status(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    monkeypatch.setattr(sys, "argv", ["status", str(folder)])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("jobs.status", run_name="__main__")
    return left.value.code, capsys.readouterr().out
