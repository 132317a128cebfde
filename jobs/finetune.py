"""Fine-tune the pretrained encoder to a lesion segmenter on the labelled cases.

python -m jobs.finetune CONFIG.yaml [key=value ...] [--dry-run]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.cli import main

if TYPE_CHECKING:
    from pipeline.config import Config


def finetune(config: Config) -> None:
    from pipeline import runs  # brings Ray with it, which --help and a mistake need not wait for

    runs.finetune(config)


if __name__ == "__main__":
    main(finetune, __doc__)
