"""Search for the mask schedule with short pretrainings, each judged by a probe on labelled cases.

python -m jobs.search CONFIG.yaml [key=value ...] [--dry-run]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.cli import main

if TYPE_CHECKING:
    from pipeline.config import Config


def search(config: Config) -> None:
    from pipeline import runs  # brings Ray with it, which --help and a mistake need not wait for

    runs.search(config)


if __name__ == "__main__":
    main(search, __doc__)
