"""A run is a folder: the resolved configuration, one folder a stage, each with a fingerprint of its inputs.

The same command run again goes on where it stopped; a stage whose inputs changed is redone, and says why.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from upath import UPath

from pipeline.training.history import read_history
from preprocessing.errors import ConfigError
from preprocessing.lock import OwnedLock
from preprocessing.object_store import fresh, read_text, uri_mistake
from preprocessing.settings import Settings
from preprocessing.storage import make_folder, remove_folder, write_text


class RunSettings(Settings):
    """Where the run lives, and what fixes its chance."""

    dir: str = Field("", description="Folder of the run, any path or URI; default runs/<name of the configuration>.")
    seed: int = Field(0, ge=0, description="Fixes splits, order, masks, initial weights and augmentation.")
    address: str = Field(
        "", description="Ray cluster to join; empty: the job's own (RAY_ADDRESS) or a new one on this machine."
    )


@dataclass
class Stage:
    """A stage's folder, and whether it already holds the result for these inputs."""

    folder: UPath
    done: bool


class RunFolder:
    """Access to one run's files; every write to a JSON file is whole or not at all.

    Raises:
        ConfigError: the URI holds credentials, or there is no driver for it.
    """

    def __init__(self, root: str, say: Callable[[str], None] = print) -> None:
        # absolute, since workers have working directories of their own
        if mistake := uri_mistake("run.dir", root):
            raise ConfigError(mistake)
        self.root = fresh(UPath(root)) if "://" in root else UPath(Path(root).absolute())
        self._say = say

    @property
    def lock_file(self) -> str:
        """Names the driver that may write into this run."""
        return str(self.root / "owner.json")

    @contextmanager
    def locked(self) -> Iterator[str]:
        """Hold the run: a second driver is refused, and a former driver's workers may not write any more.

        Yields:
            The owner's token, for `preprocessing.lock.check_owner` in workers.

        Raises:
            RunError: the run is in use.
        """
        make_folder(self.root)
        with OwnedLock(self.lock_file, f"the run {self.root}") as lock:
            yield lock.token

    @contextmanager
    def stage(self, name: str, inputs: Mapping[str, Any]) -> Iterator[Stage]:
        """Enter a stage: resumed if its inputs are the same, begun anew if they are not.

        Args:
            name: folder of the stage under the run.
            inputs: everything its result depends on, JSON-serialisable, nested by field.
        """
        folder, mark = self.root / name, self.root / name / "stage.json"
        inputs = json.loads(json.dumps(inputs))
        before = self.stage_record(name)
        if before is not None and before.get("going"):  # its removal was interrupted
            self.drop_stage(name)
            before = None
        changes = [] if before is None else differences(before["inputs"], inputs)
        if changes:
            self._say(f"{name}: done again, since {'; '.join(changes[:3])}{' ...' if len(changes) > 3 else ''}")
            self.drop_stage(name)
            before = None
        done = before is not None and before["done"]
        spent = 0.0 if before is None else before["seconds"]
        if before is not None and not done:  # a killed process leaves no note of its time, but that of its epochs
            spent = max(spent, sum(record["seconds"] for record in read_history(folder)))
        make_folder(folder)
        if done:
            self._say(f"{name}: already done ({spent:.0f} s), nothing to do")
            yield Stage(folder, done=True)
            return
        self._say(f"{name}: {'begins' if before is None else 'goes on'} in {folder}")
        write_json(mark, {"inputs": inputs, "done": False, "seconds": spent})
        began = time.time()
        try:
            yield Stage(folder, done=False)
        except BaseException:
            write_json(mark, {"inputs": inputs, "done": False, "seconds": spent + time.time() - began})
            raise
        seconds = spent + time.time() - began
        write_json(mark, {"inputs": inputs, "done": True, "seconds": seconds})
        self._say(f"{name}: done in {seconds:.0f} s")

    def stage_record(self, name: str) -> dict[str, Any] | None:
        """What stage.json says: inputs, done, seconds; None if the stage never began."""
        return read_json(self.root / name / "stage.json")

    def is_done(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether a stage stands finished for these inputs."""
        record = self.stage_record(name)
        return record is not None and record["done"] and record["inputs"] == json.loads(json.dumps(inputs))

    def merge_metrics(self, part: Mapping[str, Any]) -> None:
        """Put a job's part into metrics.json, section by section; the other sections stay."""
        path = self.root / "metrics.json"
        metrics = read_json(path) or {}
        for section, values in part.items():
            metrics[section] = metrics.get(section, {}) | values if isinstance(values, Mapping) else values
        write_json(path, metrics)

    def drop_stage(self, name: str) -> None:
        """Remove what a stage has left, if it has begun."""
        mark = self.root / name / "stage.json"
        if (record := read_json(mark)) is not None:
            write_json(mark, record | {"done": False, "going": True})  # what is half removed is no result
            remove_folder(self.root / name, mark.name)

    def drop_metrics(self, section: str) -> None:
        """Forget a section of metrics.json, since what it tells of is made anew."""
        metrics = self.read_metrics()
        if metrics.pop(section, None) is not None:
            write_json(self.root / "metrics.json", metrics)

    def read_metrics(self) -> dict[str, Any]:
        """metrics.json as it stands, {} before the first job."""
        return read_json(self.root / "metrics.json") or {}


def differences(before: Any, after: Any) -> list[str]:
    """Each leaf that differs, as `field: old -> new`, by dotted path."""
    return [f"{path} changed: {old} -> {new}" for path, old, new in differing_leaves(before, after)]


def differing_leaves(before: Any, after: Any, shared: bool = False, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted path, old and new value of each leaf that differs; with `shared` only of keys that both trees have."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() & after.keys() if shared else before.keys() | after.keys()):
            yield from differing_leaves(before.get(key), after.get(key), shared, f"{path}.{key}" if path else key)
    elif before != after:
        yield path, before, after


def read_json(path: UPath) -> Any:
    """The file's content, None if there is no such file."""
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        return None


def write_json(path: UPath, value: Any) -> None:
    """Write the whole file or nothing."""
    write_text(path, json.dumps(value, indent=1))
