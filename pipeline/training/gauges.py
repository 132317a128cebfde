"""A training's newest numbers as Ray metrics, which the dashboard's Prometheus endpoint on each node shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

_SHOWN = {
    "epoch": "Epochs done.",
    "samples_seen": "Samples seen over all workers.",
    "loss": "Mean loss of the last epoch.",
    "ratio": "Masking ratio.",
    "probe_dsc": "DSC of the probe on the frozen encoder, labelled cases held out in turn.",
    "val_dsc": "Validation DSC of the segmenter.",
    "samples_per_second": "Samples a second over all workers.",
    "data_wait_fraction": "Share of the time that waited for data.",
}


class Gauges:
    """One set for a training, in the process of rank 0.

    Args:
        labels: tell it from other trainings of the cluster.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._labels = dict(labels)

    def show(self, record: Mapping[str, Any]) -> None:
        """Show the numbers of a record that are worth a curve, as `ray_mps_ams_<name>`."""
        for name, text in _SHOWN.items():
            value = record.get(name)
            if not isinstance(value, (int, float)):
                continue
            if name not in self._gauges:
                self._gauges[name] = Gauge(f"mps_ams_{name}", text, tuple(self._labels))
            self._gauges[name].set(float(value), self._labels)
