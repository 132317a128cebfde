"""What the pipeline costs, measured on this machine: one table, and bench.json; status 1 if a target is missed.

python -m jobs.bench CONFIG.yaml [key=value ...]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.cli import main

if TYPE_CHECKING:
    from pipeline.config import Config


def bench(config: Config) -> None:
    from pipeline.measure.bench import bench as measure  # brings torch and Ray with it, which --help need not wait for

    measure(config)


if __name__ == "__main__":
    main(bench, __doc__)
