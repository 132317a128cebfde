"""Search spaces as data: dotted configuration fields and their distributions, by name."""

from __future__ import annotations

from types import ModuleType

from tune_spaces import finetune, mask_schedule

SPACES: dict[str, ModuleType] = {"mask_schedule": mask_schedule, "finetune": finetune}
