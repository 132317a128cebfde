"""Settings of the search."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from preprocessing.settings import Settings

# what the result of each search depends on; the length of a fine-tuning trial is the fine-tuning's own
FINETUNE_SEARCH = ("scheduler", "trials", "finalists", "repeats")
SCHEDULE_SEARCH = (*FINETUNE_SEARCH, "epochs", "probe_every", "grace")


class SearchSettings(Settings):
    """Short pretrainings, each judged by the probe on its frozen encoder; test cases are never read."""

    enabled: bool = Field(True, description="Search before pretraining; off: the configuration's own schedule is used.")
    finetune: bool = Field(False, description="Also search the fine-tuning's settings, between pretraining and it.")
    scheduler: Literal["asha", "pbt"] = Field(
        "asha",
        description="asha stops the worse trials early; pbt discovers a schedule while training, kept as piecewise.",
    )
    trials: int = Field(8, ge=1, description="Schedules to try; the first is the configuration's own.")
    epochs: int = Field(20, ge=1, description="Epochs of a trial; its schedule runs from start to end within them.")
    probe_every: int = Field(5, ge=1, description="Epochs between a trial's reports.")
    grace: int = Field(10, ge=1, description="Epochs before asha may stop a trial.")
    finalists: int = Field(
        2, ge=1, description="Best schedules that are run again with fresh seeds before one is chosen."
    )
    repeats: int = Field(2, ge=0, description="Fresh seeds of each finalist; 0: the best single trial is taken.")
    concurrent: int = Field(0, ge=0, description="Trials at a time; 0: as many as the cluster has room for.")
    cpus_per_trial: int = Field(1, ge=1, description="CPU cores of a trial.")
    gpus_per_trial: float = Field(1.0, gt=0, description="GPUs of a trial, where GPUs are used; may be a fraction.")

    @property
    def runs(self) -> int:
        """Trials in all, the repeats of the finalists included."""
        finalists = min(self.finalists, self.trials)
        return self.trials + (finalists * self.repeats if finalists > 1 else 0)

    @model_validator(mode="after")
    def _reports_end_at_the_end(self) -> SearchSettings:
        if self.epochs % self.probe_every:
            raise ValueError(f"epochs {self.epochs} must be a multiple of probe_every {self.probe_every}")
        if self.grace > self.epochs:
            raise ValueError(f"grace {self.grace} is more than epochs {self.epochs}, so that no trial could be stopped")
        if self.scheduler == "pbt" and self.epochs < 2:
            raise ValueError("epochs must be at least 2 with scheduler pbt, which keeps a schedule's course")
        return self
