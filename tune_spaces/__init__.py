"""Search spaces as data: dotted configuration fields and their distributions, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from types import ModuleType
from typing import Any

from ray.tune.search.sample import Categorical

from tune_spaces import finetune, mask_schedule

SPACES: dict[str, ModuleType] = {"mask_schedule": mask_schedule, "finetune": finetune}


def choices(space: Mapping[str, Any], prefix: str) -> Iterator[dict[str, Any]]:
    """Every combination of the categorical fields under a prefix; one empty combination where there are none."""
    names = [name for name, domain in space.items() if name.startswith(prefix) and isinstance(domain, Categorical)]
    for values in product(*(space[name].categories for name in names)):
        yield dict(zip(names, values, strict=True))
