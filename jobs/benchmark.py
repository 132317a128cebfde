"""The comparison table: MPS-AMS, its halves, random masking and no pretraining, over several seeds.

python -m jobs.benchmark CONFIG.yaml [key=value ...]

Interrupted, the same command goes on where it stopped; table.md and table.csv grow with every finished run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.cli import main

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.measure.preflight import Times


def benchmark(config: Config) -> None:
    from pipeline import runs  # brings Ray with it, which --help and a mistake need not wait for

    runs.benchmark(config)


def times() -> Times:
    """What tells a dry run how long the table would take; brings torch with it, which --help need not wait for."""
    from pipeline.benchmark.times import table_times

    return table_times


if __name__ == "__main__":
    main(benchmark, __doc__, times=times)
