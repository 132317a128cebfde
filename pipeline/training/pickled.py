"""Ray Tune keeps its state as pickles, and reading a pickle runs what is in it: only this user's own are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from upath import UPath

from preprocessing.errors import RunError
from preprocessing.object_store import is_local


def check_owner_of_pickles(folder: UPath) -> None:
    """Refuse Tune's state where another user could have put it or changed it.

    On an object store there is no owner of a file: whoever may write to the bucket is trusted there, as said in
    docs/cluster.md.

    Args:
        folder: of one Tune experiment, inside the run's folder.

    Raises:
        RunError: names the file or folder.
    """
    if not is_local(folder) or not hasattr(os, "getuid"):
        return
    root = Path(folder.path)
    for path in [root, *root.rglob("*")]:
        if not path.is_dir() and path.suffix != ".pkl" and not path.name.startswith("experiment_state"):
            continue
        found = path.lstat()
        if found.st_uid != os.getuid():
            reason = f"belongs to another user (id {found.st_uid})"
        elif stat.S_ISLNK(found.st_mode):
            reason = "is a link"
        elif found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            reason = "may be written by every user of the machine"
        else:
            continue
        raise RunError(
            f"{path} {reason}, and going on with this search would run what is in it; if you trust it, make it your "
            f"own (chown, chmod o-w), else remove {root} and run the same command again"
        )
