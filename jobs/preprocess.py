"""Scans in, patch cache and lesion scores out, with the hit rate where there are labels.

python -m jobs.preprocess CONFIG.yaml [key=value ...] [--dry-run]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.cli import main

if TYPE_CHECKING:
    from pipeline.config import Config


def preprocess(config: Config) -> None:
    from pipeline import runs  # brings Ray with it, which --help and a mistake need not wait for

    runs.preprocess(config)


if __name__ == "__main__":
    main(preprocess, __doc__)
