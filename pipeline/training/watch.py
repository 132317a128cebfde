"""Shows the progress of a training that runs on other processes, from the history that it writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from upath import UPath

from pipeline.training.history import Record, read_history
from pipeline.training.progress import StageProgress
from preprocessing.object_store import StoreError, fresh, is_local

_POLL_S, _STORE_POLL_S = 2.0, 10.0  # of a folder on a disk; on a store, where each look is paid for


@contextmanager
def watching(
    title: str,
    folder: UPath,
    epochs: int,
    metric: str = "loss",
    told: Callable[[Sequence[Record]], None] = lambda records: None,
) -> Iterator[None]:
    """Count the epochs in the folder's history while the body runs.

    Args:
        title: of the stage.
        folder: where history.jsonl grows.
        epochs: epochs in all.
        metric: field of a record that is shown beside; the newest that there is.
        told: gets the history at every look, and once more at the end.
    """

    def look() -> tuple[int, str]:
        records = read_history(folder)
        told(records)
        values = [f"{metric} {r[metric]:.4f}" for r in records if isinstance(r.get(metric), float)]
        return (records[-1]["epoch"] if records else 0), (values[-1] if values else "")

    with _polled(title, epochs, "epochs", folder, look):
        yield


@contextmanager
def watching_trials(title: str, folder: UPath, epochs: int, trials: int, metric: str) -> Iterator[None]:
    """Count the epochs of all trials, those that were stopped early included, while the body runs."""

    def look() -> tuple[int, str]:
        newest_listing = fresh(folder)
        if not newest_listing.exists():
            return 0, ""
        histories = [read_history(trial) for trial in newest_listing.iterdir()]
        records = [record for history in histories for record in history]
        newest = [history[-1]["epoch"] for history in histories if history]
        values = [r[metric] for r in records if metric in r]
        return sum(newest), f"best {metric} {max(values):.3f}" if values else ""

    with _polled(title, epochs * trials, "epochs at most", folder, look):
        yield


@contextmanager
def _polled(title: str, total: int, unit: str, folder: UPath, look: Callable[[], tuple[int, str]]) -> Iterator[None]:
    ended = threading.Event()
    done, _ = look()
    pause = _POLL_S if is_local(folder) else _STORE_POLL_S
    with StageProgress(title, total, unit, done=done) as progress:

        def show() -> None:
            with suppress(StoreError):  # the training itself goes on
                progress.update(*look())

        def poll() -> None:
            while not ended.wait(pause):
                show()

        thread = threading.Thread(target=poll, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            show()
