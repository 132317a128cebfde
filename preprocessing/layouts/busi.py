"""The layout of BUSI (Al-Dhabyani et al. 2020): a folder a class; `NAME.png`, `NAME_mask.png`, `NAME_mask_1.png` ..."""

from __future__ import annotations

import re
from collections import defaultdict

from upath import UPath

from preprocessing.case import Case, Rejection
from preprocessing.errors import ConfigError

CLASSES = ("benign", "malignant", "normal")
_MASK = re.compile(r"^(?P<name>.+)_mask(_(?P<number>\d+))?$")


def find(root: str) -> tuple[list[Case], list[Rejection]]:
    """One case an image; its class is the stratum. `normal` images have an all-zero mask: they hold no lesion.

    An image without a mask, and a mask without an image, are rejected.

    Raises:
        ConfigError: there is no class folder.
    """
    folders = [UPath(root) / name for name in CLASSES if (UPath(root) / name).is_dir()]
    if not folders:
        raise ConfigError(f"data.root: none of the folders {', '.join(CLASSES)} is in {root}{_hint(UPath(root))}")
    cases, rejected = [], []
    for folder in folders:
        images, masks = _scan(folder)
        for name, image in images.items():
            if name in masks:
                labels = tuple(str(file) for _, file in sorted(masks[name]))
                cases.append(Case(name, name, folder.name, {"image": str(image)}, labels))
            else:
                rejected.append(Rejection(name, str(image), f"there is no mask {name}_mask.png beside the image"))
        rejected += [
            Rejection(name, str(files[0][1]), f"there is no image {name}.png beside the mask")
            for name, files in masks.items()
            if name not in images
        ]
    return cases, rejected


def _scan(folder: UPath) -> tuple[dict[str, UPath], dict[str, list[tuple[int, UPath]]]]:
    """Images by name, and numbered masks by the name of their image."""
    images: dict[str, UPath] = {}
    masks: dict[str, list[tuple[int, UPath]]] = defaultdict(list)
    for file in sorted(folder.iterdir(), key=str):
        if file.suffix.lower() != ".png":
            continue
        found = _MASK.match(file.stem)
        if found:
            masks[found["name"]].append((int(found["number"] or 0), file))
        else:
            images[file.stem] = file
    return images, masks


def _hint(root: UPath) -> str:
    inside = [path for path in root.iterdir() if path.is_dir() and any((path / name).is_dir() for name in CLASSES)]
    return f"; did you mean {inside[0]}?" if inside else ""
