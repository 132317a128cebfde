"""A run's numbers in MLflow as well, where a tracking server is given; the run never waits for it nor fails with it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator
from upath import UPath

from preprocessing.object_store import credentials_in, read_text
from preprocessing.settings import Settings
from preprocessing.storage import write_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_RUN_FILE = "mlflow.json"
_PARAMS_AT_ONCE, _METRICS_AT_ONCE, _VALUE = 100, 1000, 500  # what the server takes
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it speaks to its makers otherwise
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_PAUSE_S = 60.0  # between tries, once a server did not answer


class TrackingSettings(Settings):
    """A tracking server that gets the run's numbers beside the run's own files."""

    uri: str = Field(
        "",
        description="MLflow server, such as http://127.0.0.1:5000 (needs the extra `mlflow`); empty: none. Name and "
        "password, if it wants them, go into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    )
    experiment: str = Field("mps-ams", min_length=1, description="MLflow experiment that the run is filed under.")

    @field_validator("uri")
    @classmethod
    def _usable(cls, uri: str) -> str:
        if credentials_in(uri):
            raise ValueError("holds a password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead")
        if uri and find_spec("mlflow") is None:
            raise ValueError("needs MLflow: pip install 'mps-ams[mlflow]'")
        return uri


class Tracker:
    """One MLflow run for one run folder; the same one when the run goes on.

    Args:
        settings: server and experiment; without a server every method does nothing.
        root: the run's folder, which remembers the MLflow run.
        config: the resolved configuration, which becomes the MLflow run's parameters.
        say: told once when the server cannot be reached; it is tried again later.
    """

    def __init__(
        self,
        settings: TrackingSettings,
        root: UPath,
        config: Mapping[str, Any],
        say: Callable[[str], None] = print,
    ) -> None:
        self._settings, self._root, self._config, self._say = settings, root, config, say
        self._sent: dict[str, int] = {}  # the newest epoch of each stage that the server has
        self._run = ""
        self._client: MlflowClient | None = None
        self._next_try, self._complained = 0.0, False
        if settings.uri:
            os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})

    def records(self, stage: str) -> Callable[[Sequence[Mapping[str, Any]]], None]:
        """What to give a stage's history to, as often as one likes: each record is sent once, its epoch as step."""

        def send(history: Sequence[Mapping[str, Any]]) -> None:
            if history and history[-1]["epoch"] > self._sent.get(stage, 0):
                self._try(partial(self._send_new, stage, history))

        return send

    def result(self, numbers: Mapping[str, Any]) -> None:
        """The test metrics, and that the run is done; to be told again when nothing is left to do, since the server may
        not have answered."""
        result = json.loads(json.dumps(dict(numbers)))

        def send(client: MlflowClient) -> None:
            self._send(client, _metrics("test", numbers))
            client.set_terminated(self._run)
            self._remember(result)

        if self._remembered().get("result") != result:
            self._next_try = 0.0  # there is no later try in this process
            self._try(send)

    def _try(self, action: Callable[[MlflowClient], None]) -> None:
        """Act on the server if there is one and it answers."""
        if not self._settings.uri or time.monotonic() < self._next_try:
            return
        from mlflow.exceptions import MlflowException

        try:
            if self._client is None:
                self._client = self._open()
            action(self._client)
        except (MlflowException, OSError) as error:
            self._next_try = time.monotonic() + _PAUSE_S
            if not self._complained:
                reason = str(error).partition("\n")[0][:200]
                self._say(f"tracking: {self._settings.uri} does not answer; the run goes on without ({reason})")
            self._complained = True

    def _open(self) -> MlflowClient:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(tracking_uri=self._settings.uri)
        if known := self._remembered():
            self._run = known["run"]
            client.update_run(self._run, status="RUNNING")
            return client
        found = client.get_experiment_by_name(self._settings.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self._settings.experiment)
        self._run = client.create_run(experiment, run_name=self._root.name).info.run_id
        self._remember()
        params = [Param(name, str(value)[:_VALUE]) for name, value in _flat(self._config)]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            client.log_batch(self._run, params=params[start : start + _PARAMS_AT_ONCE])
        return client

    def _remembered(self) -> dict[str, Any]:
        """What the run's folder knows of its MLflow run on this server; {} where there is none."""
        file = self._root / _RUN_FILE
        known = json.loads(read_text(file)) if file.exists() else {}
        return known if known.get("uri") == self._settings.uri else {}

    def _remember(self, result: Mapping[str, Any] | None = None) -> None:
        known = {"uri": self._settings.uri, "run": self._run} | ({"result": result} if result else {})
        write_text(self._root / _RUN_FILE, json.dumps(known))

    def _send_new(self, stage: str, history: Sequence[Mapping[str, Any]], client: MlflowClient) -> None:
        if stage not in self._sent:  # a former driver may have sent some
            newest = client.get_run(self._run).data.metrics
            self._sent[stage] = int(newest.get(f"{stage}.epoch", 0))
        new = [record for record in history if record["epoch"] > self._sent[stage]]
        self._send(client, (metric for record in new for metric in _metrics(stage, record)))
        self._sent[stage] = int(history[-1]["epoch"])

    def _send(self, client: MlflowClient, metrics: Iterable[Metric]) -> None:
        every = list(metrics)
        for start in range(0, len(every), _METRICS_AT_ONCE):
            client.log_batch(self._run, metrics=every[start : start + _METRICS_AT_ONCE])


def _metrics(stage: str, record: Mapping[str, Any]) -> Iterator[Metric]:
    from mlflow.entities import Metric

    now, step = int(time.time() * 1000), int(record.get("epoch", 0))
    for name, value in record.items():
        if isinstance(value, (int, float)):
            yield Metric(f"{stage}.{name}", float(value), now, step)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
