"""Write made-up ultrasound with lesion masks in BUSI's own layout: python -m jobs.phantoms FOLDER."""

from __future__ import annotations

import argparse
from pathlib import Path

from preprocessing.phantoms import write_busi_phantoms


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.phantoms", description="Write made-up ultrasound with lesion masks in BUSI's own layout."
    )
    parser.add_argument("folder", type=Path, help="folder to write; left alone if it is there already")
    parser.add_argument("--count", type=int, default=80, help="images (default: 80)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default: 0)")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        print(f"phantoms: {arguments.folder} is there already")
        return
    part = arguments.folder.with_name(f"{arguments.folder.name}.part")  # a killed run leaves no half set of images
    write_busi_phantoms(str(part), arguments.count, arguments.seed)
    part.rename(arguments.folder)
    print(f"phantoms: {arguments.count} images with masks in {arguments.folder}")


if __name__ == "__main__":
    main()
