"""One run with its kills: each at its moment, and how the run came over it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.cluster.plan import Kill
from tests.cluster.small_run import Driver
from tests.cluster.spot import SpotCluster
from tests.cluster.victims import Victim, find, strike
from tests.cluster.watch import begun, marks, over, stage_of

LONGEST_S = 300  # that anything is waited for
POLL_S = 0.05
T = TypeVar("T")


class Stuck(Exception):
    """The run does not go on, or not to its end."""


@dataclass(frozen=True)
class Disturbance:
    """What is disturbed.

    Attributes:
        totals: marks of each stage in the undisturbed run.
    """

    cluster: SpotCluster
    driver: Driver
    run: Path
    totals: dict[str, int]

    def kills(self, planned: list[Kill]) -> Iterator[dict[str, Any]]:
        """Facts of each kill that landed, told once the run goes on or does not.

        Raises:
            Stuck: it does not, after the facts are told.
        """
        for kill in planned:
            victim = self._moment(kill)
            if victim is None:
                print(f"{self.run.name}: {kill.stage} was over before the {kill.victim} could be killed", flush=True)
                continue
            facts, stuck = self._kill(kill, victim)
            yield facts
            if stuck:
                raise stuck

    def finish(self) -> None:
        """Wait until the run ends well.

        Raises:
            Stuck: it does not.
        """
        self._wait(self.driver.ended_well, "the run does not come to its end")

    def _moment(self, kill: Kill) -> Victim | None:
        """The victim at the planned moment of the stage; None when the stage was over before."""
        stage, total = kill.stage, self.totals[kill.stage]
        at = min(int(kill.at * total), total - 2)

        def late() -> bool:
            return over(self.run, stage) or self.driver.ended_well()

        self._wait(
            lambda: late() or (begun(self.run, stage) and marks(self.run, stage) >= at),
            f"{stage} does not come to {at} of {total}",
        )
        time.sleep(kill.after)
        victim = self._wait(
            lambda: late() or find(kill, self.cluster, self.run), f"no {kill.victim} is found in {stage}"
        )
        return victim if isinstance(victim, Victim) and stage_of(self.run) == stage else None

    def _kill(self, kill: Kill, victim: Victim) -> tuple[dict[str, Any], Stuck | None]:
        stage, commands, began = kill.stage, self.driver.commands, time.monotonic()
        done = marks(self.run, stage)
        strike(victim, self.driver)
        if victim.raylet:
            self.cluster.replace(victim.raylet, kill.back)
        # the other worker may be finishing a shard of its own, which says nothing of the lost one
        beyond = marks(self.run, stage, victim.trial) + (1 if stage == "preprocess" else 0)
        stuck = None

        def further() -> bool:
            ended = self.driver.ended_well()
            return ended or over(self.run, stage) or marks(self.run, stage, victim.trial) > beyond

        try:
            self._wait(further, f"{stage} does not go on after the {kill.victim} was killed")
        except Stuck as error:
            stuck = error
        outcome = "goes on by itself" if self.driver.commands == commands else "the same command goes on"
        facts = {"number": kill.number, "stage": stage, "done": done, "of": self.totals[stage], "victim": kill.victim}
        seconds = round(time.monotonic() - began, 1)
        return {**facts, "outcome": "does not go on" if stuck else outcome, "seconds": seconds}, stuck

    def _wait(self, what: Callable[[], T], trouble: str) -> T:
        deadline = time.monotonic() + LONGEST_S
        while not (found := what()):
            if time.monotonic() > deadline:
                raise Stuck(trouble)
            if self.driver.commands > self.driver.MOST:
                raise Stuck(f"the command was given {self.driver.commands} times: {self.driver.statuses}")
            time.sleep(POLL_S)
        return found
