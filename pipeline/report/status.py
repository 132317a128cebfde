"""How far a run is, read from its folder; the run itself is not disturbed."""

from __future__ import annotations

from collections.abc import Sequence

import yaml
from rich.console import Group
from rich.table import Table
from rich.text import Text
from upath import UPath

from pipeline.methods import METHODS
from pipeline.report.data import STAGES
from pipeline.report.wording import duration, number
from pipeline.runfolder import RunFolder
from pipeline.training.history import read_history
from preprocessing.errors import ConfigError
from preprocessing.lock import holder

_SHOWN = ("loss", "probe_dsc", "val_dsc")


def status(root: str) -> Group:
    """Stages with their time and newest numbers, then the metrics there are.

    Raises:
        ConfigError: the folder holds no run.
    """
    folder = RunFolder(root, say=lambda _: None)
    if not (folder.root / "config.yaml").exists():
        raise ConfigError(f"{root}: holds no run (no config.yaml in it)")
    stages = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("stage", "state", "time", "newest"):
        stages.add_column(column, justify="right" if column == "time" else "left")
    wanted = _wanted(folder)
    for name in STAGES:
        record = folder.stage_record(name)
        if record is None and name not in wanted:
            continue
        state = "not begun" if record is None else "done" if record["done"] else "begun"
        time = duration(record["seconds"]) if record and record["seconds"] else ""
        stages.add_row(name, state, time, _newest(folder.root / name))
    owner = holder(folder.lock_file)
    driver = f"process {owner['pid']} on {owner['host']} holds this run" if owner else "no driver holds this run"
    return Group(
        Text(f"{folder.root}: {driver}"), stages, *_metrics(folder), Text(f"run again: {_again(folder, wanted)}")
    )


def _wanted(folder: RunFolder) -> list[str]:
    """The stages that the run's configuration asks for."""
    config = yaml.safe_load((folder.root / "config.yaml").read_text())
    method = METHODS.get(config.get("pretrain", {}).get("method", "mps_ams"))
    pretrains = method is not None and not config.get("finetune", {}).get("encoder")  # not from scratch
    search = config.get("search", {})
    left_out = {
        "search": not (search.get("enabled", True) and pretrains and method is not None and method.scheduled),
        "pretrain": not pretrains,
        "search_finetune": not search.get("finetune", False),
    }
    return [name for name in STAGES if not left_out.get(name)]


def _again(folder: RunFolder, wanted: Sequence[str]) -> str:
    """What the same command would do now."""
    for name in wanted:
        record, epochs = folder.stage_record(name), read_history(folder.root / name)
        if record is None:
            return f"would begin with {name}"
        if not record["done"]:
            after = f", from its last checkpoint at or before epoch {epochs[-1]['epoch']}" if epochs else ""
            return f"would go on with {name}{after}"
    return "nothing is left to do while scans and settings stay the same"


def _newest(folder: UPath) -> str:
    records = read_history(folder)
    if not records:
        return ""
    values = []
    for name in _SHOWN:
        known = [record[name] for record in records if record.get(name) is not None]
        if known:
            values.append(f"{name} {number(known[-1])}")
    return ", ".join([f"epoch {records[-1]['epoch']}", *values])


def _metrics(folder: RunFolder) -> list[Text]:
    metrics = folder.read_metrics()
    lines = []
    test = metrics.get("segmentation", {}).get("test", {})
    if test:
        shown = ", ".join(f"{name} {number(test.get(name))}" for name in ("dsc", "ppv", "sen", "hd95"))
        lines.append(f"test: {shown} over {test.get('cases')} cases")
    rates = metrics.get("selection", {}).get("lesion_hit_rate") or {}
    if rates:
        lines.append(
            "hit rate: " + ", ".join(f"{number(rate, 2)} at {float(share):.0%}" for share, rate in rates.items())
        )
    if (folder.root / "report.html").exists():
        lines.append(f"report: {folder.root / 'report.html'}")
    return [Text(line) for line in lines]
