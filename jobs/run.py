"""The whole pipeline, scans to report: preprocess, search, pretrain, finetune, evaluate.

python -m jobs.run CONFIG.yaml [key=value ...] [--dry-run]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.cli import main

if TYPE_CHECKING:
    from pipeline.config import Config


def run(config: Config) -> None:
    from pipeline import runs  # brings Ray with it, which --help and a mistake need not wait for

    runs.run(config)


if __name__ == "__main__":
    main(run, __doc__)
