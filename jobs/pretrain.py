"""Pretrain the encoder with masked patches selection and the adaptive masking strategy.

python -m jobs.pretrain CONFIG.yaml [key=value ...] [--dry-run]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.cli import main

if TYPE_CHECKING:
    from pipeline.config import Config


def pretrain(config: Config) -> None:
    from pipeline import runs  # brings Ray with it, which --help and a mistake need not wait for

    runs.pretrain(config)


if __name__ == "__main__":
    main(pretrain, __doc__)
