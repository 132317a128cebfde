"""Space of the fine-tuning search, judged by the validation DSC."""

from __future__ import annotations

from typing import Any

from ray import tune


def space() -> dict[str, Any]:
    """Dotted configuration fields and where their values are drawn from."""
    return {
        "finetune.lr": tune.loguniform(3e-4, 3e-3),
        "finetune.layer_decay": tune.choice([0.5, 0.65, 0.75, 0.9, 1.0]),
        "finetune.weight_decay": tune.choice([0.01, 0.05, 0.1]),
        "finetune.frozen": tune.choice([0.0, 0.2, 0.5]),
        "finetune.dice_weight": tune.choice([0.3, 0.5, 0.7]),
    }


def mutations() -> dict[str, list[float]]:
    """What population-based training changes while a trial runs."""
    return {
        "finetune.lr": [3e-4, 5e-4, 8e-4, 1.2e-3, 2e-3, 3e-3],
        "finetune.weight_decay": [0.01, 0.03, 0.05, 0.1, 0.2],
    }
