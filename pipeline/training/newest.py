"""The newest checkpoint of a group where Ray Train's own list of them is of no use.

Ray writes that list in place, so that a kill at the wrong moment leaves half of it, and no training would begin again.
"""

from __future__ import annotations

import json

from upath import UPath

from pipeline.checkpoint import load_weights
from preprocessing.errors import RunError
from preprocessing.object_store import fresh, read_text

LIST = "checkpoint_manager_snapshot.json"


def newest_unlisted(folder: UPath) -> str:
    """The newest whole checkpoint where the list is missing or cut short, "" where it can be read or there is none.

    A list that was cut short is removed.

    Args:
        folder: of the group, with the list and the checkpoints; their names sort by time.
    """
    folder = fresh(folder)
    try:
        json.loads(read_text(folder / LIST))
        return ""
    except FileNotFoundError:
        pass
    except json.JSONDecodeError:
        (folder / LIST).unlink()
    found = [path for path in folder.iterdir() if path.name.startswith("checkpoint_")] if folder.exists() else []
    for path in sorted(found, key=lambda path: path.name, reverse=True):
        try:
            load_weights(path)
        except RunError:  # its upload was cut short as well
            continue
        return str(path)
    return ""
