"""How long a comparison table would take on one device like this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.benchmark.cells import cells, equal_compute, without
from pipeline.benchmark.table import planned_cells
from pipeline.measure.estimate import device_name, finetuning_speed, model_of, pretraining_speed
from pipeline.measure.flops import Costs
from pipeline.measure.times import Amount, rate
from pipeline.methods import Shape
from pipeline.report.comparison import Place
from pipeline.report.comparison_text import outlook
from pipeline.report.wording import duration, number

if TYPE_CHECKING:
    from pipeline.config import Config


def table_times(config: Config, amount: Amount) -> list[tuple[str, str]]:
    """Facts on every arm and on the whole table; what is finished counts too, what is included not.

    Raises:
        ConfigError: an arm's settings are no valid ones, or a table to be included is not there or another one.
    """
    every, others = planned_cells(config)
    if config.benchmark.equal == "compute":
        every = cells(
            config, equal_compute(config, Costs(Shape(amount.channels, config.cache.size, config.cache.patch)))
        )
    rows = {(cell.arm, cell.labels) for cell in every if cell.counted}
    rows |= {(arm, labels) for other in others for arm, _, _, labels in other.places()}
    every = without(every, set().union(*(other.places() for other in others)))
    places = {(cell.seed, cell.fold, cell.labels) for cell in every if cell.counted}
    runs, arms = sum(cell.counted for cell in every), {cell.arm for cell in every}
    tuning: dict[str, float] = {}
    facts = [
        ("runs", f"{number(runs)}: {len(arms)} arms, {len(places)} seeds x folds x shares of labels"),
        ("measured on", device_name(config)),
    ]
    total = 0.0
    for arm in config.benchmark.arms:
        own = [cell for cell in every if cell.arm == arm]
        if not own:
            continue
        first = own[0].config
        key = first.segmenter.model_dump_json() + first.model.model_dump_json()
        if key not in tuning:
            tuning[key] = finetuning_speed(first, amount.channels)
        counted = [cell.config for cell in own if cell.counted]
        finetunes = [(amount.finetuning(cell) + amount.tuning(cell)) / tuning[key] for cell in counted]
        most = "with its search at most" if config.search.finetune else "about"
        told = f"fine-tuning {most} {duration(max(finetunes, default=0))} ({rate(tuning[key])})"
        total += sum(finetunes)
        if first.pretrains:
            speed = pretraining_speed(model_of(first, amount.channels), first)
            pretrain = amount.pretraining(first) / speed
            told = f"pretraining about {duration(pretrain)} ({rate(speed)}), {told}"
            total += pretrain * sum(cell.needs is None for cell in own)
        facts.append((arm, told))
    facts.append(("in all", f"about {duration(total)} on one such device; several share the runs"))
    facts.append(("intervals", _outlook(config, amount, rows)))
    return facts


def _outlook(config: Config, amount: Amount, places: set[Place]) -> str:
    """How wide the intervals will be, as far as a number of cases tells; near-duplicates are not known yet."""
    chosen, data = config.benchmark, config.data
    folds = chosen.folds or (data.fold,)
    share = min(1.0, amount.test_share(data) * len(folds))
    splits = len(chosen.seeds) if amount.given is None else 1  # each seed has its own, but for those that are given
    tested = amount.cases * (1 - (1 - share) ** splits)
    told = outlook(chosen, tested, places, len(chosen.seeds) * len(folds))
    return f"at most {number(round(tested))} different test cases (with near-duplicates and lesion-free ones): {told}"
