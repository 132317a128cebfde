"""Whether all machines of the cluster see the run's folders: a local path of one machine looks whole and loses work."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import ray
from ray.exceptions import NodeDiedError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from upath import UPath

from preprocessing.errors import RunError
from preprocessing.object_store import is_local
from preprocessing.storage import absolute

_SECONDS = 120.0  # for a machine to start a worker and look


def check_shared(folders: Mapping[str, str], read: Mapping[str, str] | None = None) -> None:
    """Look for a file of this machine's on every other machine that is there now, and still there when it is asked.

    Args:
        folders: by the field that names them; URIs of object stores are not looked at.
        read: the same of what is only read, and looked for by its name alone.

    Raises:
        RunError: names the fields and machines.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    local = {field: UPath(absolute(path)) for field, path in folders.items() if is_local(UPath(path))}
    given = {field: absolute(path) for field, path in (read or {}).items() if path and is_local(UPath(path))}
    if not others or not local:
        return
    name = f".seen-by-all-{secrets.token_hex(4)}"
    for folder in local.values():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    try:
        look = ray.remote(num_cpus=0)(_missing)
        files = {field: str(folder / name) for field, folder in local.items()} | given
        asked = {
            node["NodeName"]: look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(files)
            for node in others
        }
        missing = {machine: _answer(answer) for machine, answer in asked.items()}
    finally:
        for folder in local.values():
            (folder / name).unlink(missing_ok=True)
    blind = {machine: fields for machine, fields in missing.items() if fields}
    if blind:
        fields = sorted({field for found in blind.values() for field in found})
        places = {**folders, **(read or {})}
        raise RunError(
            f"{', '.join(f'{field} = {places[field]}' for field in fields)}: not seen by the machine(s) "
            f"{', '.join(sorted(blind))}; give a folder that all machines mount, or an object store (s3://, gs://)"
        )


def _answer(asked: ray.ObjectRef) -> list[str]:
    try:
        return ray.get(asked, timeout=_SECONDS)
    except (TaskUnschedulableError, NodeDiedError, WorkerCrashedError):
        return []  # the machine was taken away, which Ray learns only some seconds later


def _missing(files: dict[str, str]) -> list[str]:
    return [field for field, file in files.items() if not UPath(file).exists()]
