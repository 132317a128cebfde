"""Tables that were made elsewhere or before, held against this one's settings: figures of two trainings that differ
are no repetitions of each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from upath import UPath

from pipeline.benchmark_results import Results
from preprocessing.errors import ConfigError
from preprocessing.object_store import read_text
from preprocessing.storage import write_text

if TYPE_CHECKING:
    from pipeline.config import Config

SETTINGS_FILE = "settings.json"
SECTIONS = {"data", "cache", "selection", "mask", "model", "decoder", "pretrain", "methods", "segmenter", "finetune"}
LEFT_OUT = {  # where things lie and how they are stored, and what is a column of the table
    "data": {"root", "manifest", "splits", "fold"},
    "cache": {"dir", "row_group_kb", "shard_mb", "compression"},
    "finetune": {"encoder"},
}


def write_settings(config: Config, root: UPath) -> None:
    """Leave the settings beside the table, for `read_included`."""
    write_text(root / SETTINGS_FILE, json.dumps(_settings(config), indent=1))


def read_included(config: Config) -> list[Results]:
    """The tables in `benchmark.include`.

    Raises:
        ConfigError: a table is missing, or was made with other settings; all that is wrong with any of them.
    """
    found, mistakes, own = [], [], _settings(config)
    for folder in config.benchmark.include:
        try:
            found.append(Results.read(folder))
            other = json.loads(read_text(UPath(folder) / SETTINGS_FILE))
        except FileNotFoundError:
            mistakes.append(f"benchmark.include = {folder}: there is no {SETTINGS_FILE}; give the run.dir of a table")
            continue
        except ConfigError as error:
            mistakes.append(str(error))
            continue
        differing = list(_differing(other, own))
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            mistakes.append(f"benchmark.include = {folder} was made with {', '.join(differing[:3])}{more}")
    if mistakes:
        raise ConfigError(mistakes)
    return found


def _settings(config: Config) -> dict[str, Any]:
    """All that a figure depends on besides its seed, fold and share of labels; no paths, nothing of the machine."""
    settings = config.model_dump(mode="json", include=SECTIONS, exclude=LEFT_OUT)
    chosen = config.benchmark
    # pairs, since a field that one table alone has is a difference here
    arms = {arm: sorted(chosen.arm(arm).items()) for arm in chosen.arms}
    benchmark = {"equal": chosen.equal, "finetuning": chosen.finetuning, "fields": arms}
    return json.loads(json.dumps(settings | {"benchmark": benchmark}))


def _differing(other: Any, own: Any, path: str = "") -> Iterator[str]:
    """Leaves that both have and that differ; a setting or an arm that one table does not know is no difference."""
    if isinstance(other, dict) and isinstance(own, dict):
        for key in sorted(other.keys() & own.keys()):
            yield from _differing(other[key], own[key], f"{path}.{key}" if path else key)
    elif other != own:
        yield f"{path} = {json.dumps(other)} (here {json.dumps(own)})"
