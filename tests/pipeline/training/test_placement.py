"""Where single-process work runs: here unless this machine lacks cores or the GPU."""

from __future__ import annotations

import os

import pytest

from pipeline.training import placement
from pipeline.training.placement import on_device
from pipeline.training.precision import ResourceSettings
from preprocessing.errors import RunError


def where(message: str = "") -> int:
    if message:
        raise RunError(message)
    return os.getpid()


def test_it_runs_here_where_here_are_cores(ray_session):
    assert on_device(ResourceSettings(gpu="no"), where) == os.getpid()


def test_a_driver_without_cores_leaves_it_to_the_cluster(ray_session, monkeypatch):
    monkeypatch.setattr(placement, "_cores_here", lambda: 0.0)
    resources = ResourceSettings(gpu="no", cpus_per_worker=1)
    assert on_device(resources, where) != os.getpid()
    with pytest.raises(RunError) as told:
        on_device(resources, where, "case 3 cannot be read")
    assert str(told.value.cause) == "case 3 cannot be read"  # what the command line shows
