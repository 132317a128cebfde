"""Tables that were made elsewhere or before, held against this one's settings: figures of two trainings that differ
are no repetitions of each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from upath import UPath

from pipeline.benchmark.results import Results
from pipeline.checkpoint import SCHEMA, checkpoint_digest
from pipeline.runfolder import differing_leaves, read_json, write_json
from pipeline.search_settings import FINETUNE_SEARCH
from preprocessing.errors import ConfigError
from preprocessing.fingerprint import digest_of
from preprocessing.storage import make_folder

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Config

SETTINGS_FILE = "settings.json"
SECTIONS = {"data", "cache", "loader", "selection", "mask", "model", "decoder", "pretrain", "methods"}
SECTIONS |= {"segmenter", "finetune", "evaluate"}
_REQUIRED = SECTIONS | {"benchmark", "cases"}
LEFT_OUT: dict[str, set[str]] = {  # where things lie and how they are stored, and what is a column of the table
    "data": {"root", "manifest", "splits", "fold"},
    "cache": {"row_group_kb", "shard_mb"},
    "finetune": {"encoder"},
    "evaluate": {"pictures"},
}


def write_settings(config: Config, cases: pd.DataFrame, root: UPath) -> None:
    """Leave the settings, of included arms too, and what the cases are known by beside the table, for `read_included`
    and `check_cases`, the first of which must have found the included tables sound."""
    make_folder(root)
    settings = _settings(config)
    for folder in config.benchmark.include:
        theirs = read_json(UPath(folder) / SETTINGS_FILE) or settings
        settings["benchmark"]["fields"] = theirs["benchmark"]["fields"] | settings["benchmark"]["fields"]
        settings["methods"] = theirs["methods"] | settings["methods"]
    write_json(root / SETTINGS_FILE, settings | {"cases": _digest(config, cases)})


def read_included(config: Config) -> list[Results]:
    """The tables in `benchmark.include`.

    Raises:
        ConfigError: a table is missing or broken, or was made with other settings; the reference is in none; all
            that is wrong.
    """
    found, mistakes, own = [], [], _settings(config)
    for folder in config.benchmark.include:
        try:
            found.append(Results.read(folder))
        except ConfigError as error:
            mistakes.append(str(error))
            continue
        try:
            other = read_json(UPath(folder) / SETTINGS_FILE)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            mistakes.append(f"benchmark.include = {folder}: {SETTINGS_FILE} is no JSON ({error})")
            continue
        if other is None:
            mistakes.append(f"benchmark.include = {folder}: there is no {SETTINGS_FILE}; give the run.dir of a table")
            continue
        if lacking := _lacking(other):
            mistakes.append(f"benchmark.include = {folder}: {SETTINGS_FILE} says nothing of {', '.join(lacking)}")
            continue
        other.setdefault("checkpoints", 1)  # what models are built like is no setting, but makes another table
        # a setting or an arm that one table does not know is no difference
        leaves = differing_leaves(other, own, shared=True)
        differing = [f"{path} = {json.dumps(theirs)} (here {json.dumps(ours)})" for path, theirs, ours in leaves]
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            mistakes.append(f"benchmark.include = {folder} was made with {', '.join(differing[:3])}{more}")
    reference, arms = config.benchmark.reference, set(config.benchmark.arms)
    arms.update(*(other.rows["arm"] for other in found))
    if not mistakes and reference not in arms:
        mistakes.append(f"benchmark.reference = {reference} is none of the tables' arms, {', '.join(sorted(arms))}")
    if mistakes:
        raise ConfigError(mistakes)
    return found


def _lacking(settings: Any) -> list[str]:
    """What a table's settings must say and these do not."""
    told = settings if isinstance(settings, dict) else {}
    found = {name for name in SECTIONS | {"benchmark"} if isinstance(told.get(name), dict)}
    if "benchmark" in found and not isinstance(told["benchmark"].get("fields"), dict):
        found.remove("benchmark")
    return sorted(_REQUIRED - found - ({"cases"} & set(told)))


def check_cases(config: Config, cases: pd.DataFrame) -> None:
    """That the tables in `benchmark.include` are of the same cases and given splits; told is what they do not know.

    Args:
        config: with tables that `read_included` has found sound.
        cases: `PatchCache.cases`.

    Raises:
        ConfigError: a table was made with other cases.
    """
    digest, settings, mistakes = _digest(config, cases), _settings(config), []
    for folder in config.benchmark.include:
        other = read_json(UPath(folder) / SETTINGS_FILE)
        if other["cases"] != digest:
            mistakes.append(f"benchmark.include = {folder} was made with other cases, labels or data.splits")
        if unknown := list(_unknown(settings, other)):
            told = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            print(f"benchmark.include = {folder}: its settings say nothing of {told}; taken to be as here", flush=True)
    if mistakes:
        raise ConfigError(mistakes)


def _unknown(own: Any, other: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of the settings that a table made before they existed does not know; arms are its own affair."""
    if path == "benchmark.fields" or not (isinstance(own, dict) and isinstance(other, dict)):
        return
    for key in own:
        below = f"{path}.{key}" if path else key
        if key in other:
            yield from _unknown(own[key], other[key], below)
        elif path != "methods":
            yield below


def _digest(config: Config, cases: pd.DataFrame) -> str:
    columns = ["case", "group", "stratum", "lesion_pixels"]
    known = cases[columns].astype(str).sort_values("case").to_numpy().tolist()
    splits = UPath(config.data.splits).read_text() if config.data.splits else ""
    return digest_of([known, splits])


def _settings(config: Config) -> dict[str, Any]:
    """All that a figure depends on besides its seed, fold and share of labels; no paths, nothing of the machine."""
    settings: dict[str, Any] = {}
    for name in sorted(SECTIONS):
        content = getattr(config, name).content()
        settings[name] = {field: value for field, value in content.items() if field not in LEFT_OUT.get(name, ())}
    chosen = config.benchmark
    # pairs, since a field that one table alone has is a difference here
    arms = {arm: sorted(_portable(chosen.arm(arm)).items()) for arm in chosen.arms}
    used = {chosen.arm(arm).get("pretrain.method", config.pretrain.method) for arm in chosen.arms}
    settings["methods"] = {name: options for name, options in settings["methods"].items() if name in used}
    benchmark: dict[str, Any] = {"equal": chosen.equal, "finetuning": chosen.finetuning, "fields": arms}
    if chosen.equal == "compute":
        benchmark["reference"] = chosen.reference
    # the one search that runs of the table may have
    searched = {"finetune", *(FINETUNE_SEARCH if config.search.finetune else ())}
    settings["search"] = config.search.model_dump(mode="json", include=searched)
    return json.loads(json.dumps(settings | {"benchmark": benchmark, "checkpoints": SCHEMA}))


def _portable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's fields with another run's encoder known by its weights, not by where it lies."""
    encoder = fields.get("finetune.encoder")
    return {**fields, "finetune.encoder": checkpoint_digest(encoder)} if encoder else dict(fields)
