"""Show how far a run is.

python -m jobs.status RUN_DIR
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from pipeline.report.status import status
from preprocessing.errors import ConfigError, RunError
from preprocessing.object_store import reaching


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.status", description="Show how far a run is.")
    parser.add_argument("run_dir", help="folder of the run, a path or URI")
    run_dir = parser.parse_args().run_dir
    try:
        with reaching(run_dir):
            shown = status(run_dir)
        Console().print(shown)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
