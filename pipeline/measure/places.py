"""Mistakes in where things are read and written: paths that vanish with a job, keys in URIs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upath import UPath

from preprocessing.object_store import credentials_in, is_local, uri_mistake

if TYPE_CHECKING:
    from pipeline.config import Config


def uri_mistakes(config: Config, needs: Sequence[str]) -> list[str]:
    """Every URI that must not or cannot be opened: keys in it, or no driver for it.

    Args:
        config: checked for itself already.
        needs: as in `pipeline.measure.preflight.input_mistakes`.
    """
    found = places(config, needs)
    if "data" in needs:  # small tables, which may well travel with a job
        found["data.splits"] = config.data.splits
        found |= {f"benchmark.include, {n}": folder for n, folder in enumerate(config.benchmark.include, 1)}
    mistakes = [mistake for field, path in found.items() if path and (mistake := uri_mistake(field, path))]
    # what the job does not need is written into checkpoints all the same
    others = [(field, text) for field, text in _texts(config.model_dump(mode="json")) if field not in found]
    return mistakes + [uri_mistake(field, text) for field, text in others if credentials_in(text)]


def _texts(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a configuration, with its dotted path."""
    if isinstance(tree, str):
        yield path, tree
    elif isinstance(tree, Mapping):
        for name, below in tree.items():
            yield from _texts(below, f"{path}.{name}" if path else name)
    elif isinstance(tree, list):
        for number, below in enumerate(tree, 1):
            yield from _texts(below, f"{path}, {number}")


def vanishing_mistakes(config: Config, needs: Sequence[str]) -> list[str]:
    """Under a submitted job, every path within the working directory, which is deleted with the job."""
    if not _is_job():
        return []
    return [
        f"{field} = {path}: relative to the job's working directory, which is deleted when the job ends; "
        "give an absolute path that all machines see, or a URI (s3://, gs://)"
        for field, path in places(config, needs).items()
        if path and is_local(UPath(path)) and not Path(path).is_absolute()
    ]


def places(config: Config, needs: Sequence[str]) -> dict[str, str]:
    """The paths of a job, by field; some may be empty."""
    found = {"run.dir": config.run.dir, "cache.dir": config.cache.dir}
    if "data" in needs:
        found |= {"data.root": config.data.root, "finetune.encoder": config.finetune.encoder}
    if "checkpoint" in needs:
        found |= {"checkpoint": config.checkpoint}
    if "predict" in needs:
        found |= {"predict.input": config.predict.input, "predict.output": config.predict.output}
    return found


def _is_job() -> bool:
    """Whether this process is the driver of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
