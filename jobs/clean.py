"""Show what of a run's folder is no longer needed, and delete it when told to.

python -m jobs.clean RUN_DIR [--cache] [--delete]
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from pipeline.cleanup import delete, leftovers
from pipeline.runfolder import RunFolder
from preprocessing.errors import ConfigError, RunError
from preprocessing.object_store import reaching


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.clean",
        description="Show what of a run's folder is no longer needed: checkpoints of stages that are done.",
    )
    parser.add_argument("run_dir", help="folder of the run, a path or URI")
    parser.add_argument("--cache", action="store_true", help="the run's own patch cache as well")
    parser.add_argument("--delete", action="store_true", help="delete what is shown")
    arguments = parser.parse_args()
    try:
        with reaching(arguments.run_dir):
            found = leftovers(arguments.run_dir, arguments.cache)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("folder", "size", "what is lost"):
            table.add_column(column, justify="right" if column == "size" else "left")
        for leftover in found:
            table.add_row(str(leftover.path), decimal(leftover.size), leftover.loss)
        Console().print(table)
        total = decimal(sum(leftover.size for leftover in found))
        if not arguments.delete:
            print(f"{len(found)} folders, {total}; nothing was deleted (--delete does it)")
            return 0
        with RunFolder(arguments.run_dir).locked():  # not under the feet of a driver
            delete(found)
        print(f"{len(found)} folders deleted, {total} freed")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
