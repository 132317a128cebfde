"""Number formats for training: bf16 where the processor has it, fp16 with loss scaling or fp32 elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch
from pydantic import Field, model_validator

from preprocessing.settings import Settings

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class ResourceSettings(Settings):
    """Workers and what each of them gets; the global batch and the results do not depend on them."""

    workers: int = Field(1, ge=1, description="Training workers, each with one GPU or `cpus_per_worker` cores.")
    max_workers: int = Field(
        0,
        ge=0,
        description="As many workers as the cluster has room for, from `workers` up to this; 0: always `workers`.",
    )
    gpu: Literal["auto", "yes", "no"] = Field("auto", description="Train on GPUs; auto: where the cluster has any.")
    cpus_per_worker: int = Field(0, ge=0, description="CPU cores of a worker; 0: the machine's cores shared evenly.")
    precision: Precision = Field(
        "auto", description="auto: bf16 where it is native, else fp16 with loss scaling on a GPU and fp32 on a CPU."
    )
    compile: bool = Field(False, description="Compile the model with torch.compile.")
    checkpoint_minutes: float = Field(
        10.0, ge=0, description="Minutes between checkpoints beside those of the epochs; 0: only those."
    )
    max_failures: int = Field(3, ge=-1, description="Worker failures to recover from before giving up; -1: no limit.")

    @property
    def most_workers(self) -> int:
        """Workers when the cluster has room for all."""
        return max(self.workers, self.max_workers)

    @property
    def device(self) -> torch.device:
        """What this process computes on where no group of workers says so: its GPU, unless none is wanted."""
        return torch.device("cuda" if self.gpu != "no" and torch.cuda.is_available() else "cpu")

    def parts(self, accumulate: int, batch: int, workers: int) -> int:
        """Parts in which each of `workers` computes its share of a batch.

        More than `accumulate` where fewer workers than hoped for share the batch, so that its memory does not grow;
        as many on every worker, and none of them empty.
        """
        return min(accumulate * -(-self.most_workers // workers), batch // workers)

    @model_validator(mode="after")
    def _ordered(self) -> ResourceSettings:
        if 0 < self.max_workers < self.workers:
            raise ValueError(f"max_workers = {self.max_workers} is below workers = {self.workers}; 0 leaves it out")
        return self


class Autocast:
    """The chosen format on a device: a context for the forward pass, and the loss scaler for fp16."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.device = device
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[_resolve(precision, device)]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def __call__(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)


def _resolve(precision: Precision, device: torch.device) -> str:
    if precision != "auto":
        return precision
    if device.type == "cuda":
        # a T4 emulates bf16, slowly; it is native from compute capability 8.0 on
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"
