"""How long a run would take on one device like this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.measure.estimate import device_name, finetuning_speed, model_of, pretraining_speed
from pipeline.report.wording import duration, number

if TYPE_CHECKING:
    from pipeline.config import Config
    from preprocessing.splits import SplitSettings


@dataclass(frozen=True)
class Amount:
    """What a data set gives.

    Attributes:
        samples: images, slices or crops; labelled: those of labelled cases.
        channels: of each.
        cases: labelled ones.
        given: share of these in each split, where the data set or a file says which case belongs where.
    """

    samples: int
    labelled: int
    channels: int
    cases: int = 0
    given: Mapping[str, float] | None = None

    def pretraining(self, config: Config) -> float:
        """Samples that the pretraining sees: the unlabelled ones, and what is trained on of the others."""
        seen = self._train(config.data) + (self.given or {}).get("unlabelled", 0.0)
        return (self.samples - self.labelled * (1 - seen)) * config.pretrain.epochs

    def finetuning(self, config: Config) -> float:
        """Samples that the fine-tuning sees."""
        return self.labelled * self._train(config.data) * config.data.label_fraction * config.finetune.epochs

    def tuning(self, config: Config) -> float:
        """Samples that the search of the fine-tuning's settings sees at most; 0 where there is none."""
        return self.finetuning(config) * config.search.runs if config.search.finetune else 0.0

    def test_share(self, data: SplitSettings) -> float:
        """Share of the labelled cases that one split tests on."""
        if self.given is not None:
            return self.given.get("test", 0.0)
        return 1 / data.folds if data.folds else data.test_fraction

    def _train(self, data: SplitSettings) -> float:
        return 1 - data.val_fraction - self.test_share(data) if self.given is None else self.given.get("train", 0.0)


def rate(speed: float) -> str:
    """Samples a second, two digits at least."""
    return f"{number(round(speed))} samples/s" if speed >= 10 else f"{speed:.2g} samples/s"


def run_times(config: Config, amount: Amount) -> list[tuple[str, str]]:
    """Facts on a whole run, scans to report."""
    speed = pretraining_speed(model_of(config, amount.channels), config)
    tuning = finetuning_speed(config, amount.channels)
    pretrain, finetune = amount.pretraining(config) / speed, amount.finetuning(config) / tuning
    told = f"{rate(speed)} pretraining, {rate(tuning)} fine-tuning, {device_name(config)}"
    facts, total = [("measured here", told)], finetune
    if config.searches:
        search = pretrain / config.pretrain.epochs * config.search.epochs * config.search.runs
        facts.append(("search", f"at most {duration(search)} of one worker's time"))
        total += search
    if config.pretrains:
        facts.append(("pretraining", f"about {duration(pretrain)}"))
        total += pretrain
    if search := amount.tuning(config) / tuning:
        facts.append(("search of the fine-tuning", f"at most {duration(search)} of one worker's time"))
        total += search
    facts.append(("fine-tuning", f"about {duration(finetune)}"))
    facts.append(("in all", f"about {duration(total)} on one such device; more workers with GPUs share it"))
    return facts
