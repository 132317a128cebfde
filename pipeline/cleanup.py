"""What of a run's folder is no longer needed: checkpoints of stages that are done, and, when asked, the patch cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from upath import UPath

from pipeline.runfolder import RunFolder
from preprocessing.cache import MANIFEST
from preprocessing.errors import ConfigError

TRAINED, SEARCHED = ("pretrain", "finetune"), ("search", "search_finetune")


@dataclass(frozen=True)
class Leftover:
    """A folder that could go: its size in bytes, and what is lost with it."""

    path: UPath
    size: int
    loss: str


def leftovers(root: str, cache: bool = False) -> list[Leftover]:
    """Folders that the results do not need.

    Args:
        root: folder of the run.
        cache: the run's own patch cache as well; one elsewhere (`cache.dir`) may serve other runs and is left alone.

    Raises:
        ConfigError: the folder holds no run.
    """
    folder = RunFolder(root, say=lambda _: None)
    if not (folder.root / "config.yaml").exists():
        raise ConfigError(f"{root}: holds no run (no config.yaml in it)")
    return [Leftover(path, _size(path), loss) for path, loss in _found(folder, cache) if path.exists()]


def _found(folder: RunFolder, cache: bool) -> Iterator[tuple[UPath, str]]:
    for stage in (*TRAINED, *SEARCHED):
        record = folder.stage_record(stage)
        if record is None or not record["done"]:
            continue  # its checkpoints are what it goes on from
        if stage in TRAINED:
            yield folder.root / stage / "train", "nothing that the results need"
            continue
        for experiment in (path for path in (folder.root / stage).iterdir() if path.is_dir()):
            for trial in experiment.glob("*/checkpoint_*"):
                yield trial, "nothing that the results need"
    if cache and (folder.root / "cache" / MANIFEST).exists():
        yield folder.root / "cache", "it is made again by the next run that needs it"


def delete(found: list[Leftover]) -> None:
    """Remove them."""
    for leftover in found:
        leftover.path.fs.rm(leftover.path.path, recursive=True)


def _size(folder: UPath) -> int:
    return int(folder.fs.du(folder.path))
