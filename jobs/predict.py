"""Write lesion masks for new images: predict.input=FOLDER [predict.output=FOLDER] [checkpoint=FOLDER].

python -m jobs.predict CONFIG.yaml [key=value ...] [--dry-run]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.cli import main

if TYPE_CHECKING:
    from pipeline.config import Config


def predict(config: Config) -> None:
    from pipeline import runs  # brings Ray with it, which --help and a mistake need not wait for

    runs.predict(config)


if __name__ == "__main__":
    main(predict, __doc__, needs=("checkpoint", "predict"))
