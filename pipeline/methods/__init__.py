"""Pretraining methods by name. A new method is one module here and one line in `METHODS`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from pipeline.methods.base import Masking, Method, Shape, StepResult
from pipeline.methods.byol import Byol
from pipeline.methods.hpm import Hpm
from pipeline.methods.mae import Mae
from pipeline.methods.mixmim import MixMim
from pipeline.methods.mps_ams import MpsAms
from pipeline.methods.simclr import SimClr
from pipeline.methods.simmim import SimMim
from pipeline.methods.swav import Swav
from pipeline.methods.um_mae import UmMae
from preprocessing.settings import Settings

if TYPE_CHECKING:
    from pipeline.config import Config

METHODS: dict[str, type[Method]] = {
    "mps_ams": MpsAms,
    "mae": Mae,
    "simmim": SimMim,
    "mixmim": MixMim,
    "um_mae": UmMae,
    "hpm": Hpm,
    "simclr": SimClr,
    "byol": Byol,
    "swav": Swav,
}


def build_method(name: str, config: Config, shape: Shape) -> Method:
    """The method of that name with its options, its weights random."""
    return METHODS[name](config, shape, getattr(config.methods, name))


def _section(method: type[Method]) -> Any:
    return method.Options, Field(method.Options(), description=inspect.getdoc(method.Options))


if TYPE_CHECKING:
    MethodsSettings = Settings
else:
    MethodsSettings = create_model(
        "MethodsSettings",
        __base__=Settings,
        __doc__="Each method's own settings; only those of `pretrain.method` count.",
        **{name: _section(method) for name, method in METHODS.items()},
    )

__all__ = ["METHODS", "Masking", "Method", "MethodsSettings", "Shape", "StepResult", "build_method"]
