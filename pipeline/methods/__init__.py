"""Pretraining methods by name. A new method is one module here and one line in `METHODS`."""

from __future__ import annotations

from pipeline.methods.base import Masking, Method, Shape, StepResult
from pipeline.methods.mps_ams import MpsAms

METHODS: dict[str, type[Method]] = {"mps_ams": MpsAms}

__all__ = ["METHODS", "Masking", "Method", "Shape", "StepResult"]
