"""Which kills are tried: a function of the seed, so that a trial that was cut short goes on with the same ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

A_RUN = 3  # kills of one run
VICTIMS = {
    "preprocess": ("data worker", "driver", "node"),
    "search": ("trial worker", "driver", "node"),
    "pretrain": ("train worker", "controller", "node", "driver"),
    "finetune": ("controller", "driver", "train worker", "node"),
}


@dataclass(frozen=True)
class Kill:
    """One kill to be tried.

    Attributes:
        number: among all, from 0 on; run: the run that it strikes.
        at: share of the stage's marks (shards, epochs) after which the kill may come; after: seconds from then on.
        which: in [0, 1), chooses among several that could be hit; back: seconds until a lost node is replaced.
    """

    number: int
    run: int
    stage: str
    victim: str
    at: float
    after: float
    which: float
    back: float


def plan(seed: int, kills: int) -> list[Kill]:
    """`kills` of them, three a run in the order of the stages; every victim of a stage has its turn."""
    chance = random.Random(seed)
    stages = list(VICTIMS)
    turns = {stage: _turns(victims, chance) for stage, victims in VICTIMS.items()}
    planned: list[Kill] = []
    for run in range(-(-kills // A_RUN)):
        spared = stages[(run + 1) % len(stages)]  # each in its turn, the search first: it takes longest
        for stage in (stage for stage in stages if stage != spared):
            at, longest = (0.5, 0.1) if stage == "preprocess" else (0.8, 0.5)  # shards follow each other quickly
            figures = chance.uniform(0.1, at), chance.uniform(0, longest), chance.random(), chance.uniform(3, 12)
            planned.append(Kill(len(planned), run, stage, next(turns[stage]), *figures))
    return planned[:kills]


def elastic(run: int) -> bool:
    """Whether the run's groups may shrink and grow. Every fourth: after the death of its driver or controller such a
    group waits up to three minutes, until Ray gives up what the dead one had reserved."""
    return run % 4 == 1


def _turns(victims: tuple[str, ...], chance: random.Random) -> Iterator[str]:
    while True:
        yield from chance.sample(victims, len(victims))
