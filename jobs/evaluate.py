"""Judge a segmenter on the test cases: DSC, PPV, sensitivity, HD95; `checkpoint` and `data.root` may name others.

python -m jobs.evaluate CONFIG.yaml [key=value ...] [--dry-run]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.cli import main

if TYPE_CHECKING:
    from pipeline.config import Config


def evaluate(config: Config) -> None:
    from pipeline import runs  # brings Ray with it, which --help and a mistake need not wait for

    runs.evaluate(config)


if __name__ == "__main__":
    main(evaluate, __doc__, needs=("data", "checkpoint"))
