"""How long a run would take on one device like this one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.measure.estimate import device_name, finetuning_speed, model_of, pretraining_speed
from pipeline.report.wording import duration, number

if TYPE_CHECKING:
    from pipeline.config import Config
    from preprocessing.splits import SplitSettings


@dataclass(frozen=True)
class Amount:
    """What a data set gives: samples (images, slices, crops), those of labelled cases, channels, labelled cases."""

    samples: int
    labelled: int
    channels: int
    cases: int = 0

    def pretraining(self, config: Config) -> float:
        """Samples that the pretraining sees."""
        return self.samples * _train(config.data) * config.pretrain.epochs

    def finetuning(self, config: Config) -> float:
        """Samples that the fine-tuning sees."""
        return self.labelled * _train(config.data) * config.data.label_fraction * config.finetune.epochs

    def tuning(self, config: Config) -> float:
        """Samples that the search of the fine-tuning's settings sees at most; 0 where there is none."""
        return self.finetuning(config) * config.search.runs if config.search.finetune else 0.0


def test_share(data: SplitSettings) -> float:
    """Share of the cases that one split tests on."""
    return 1 / data.folds if data.folds else data.test_fraction


def _train(data: SplitSettings) -> float:
    return 1 - data.val_fraction - test_share(data)


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
