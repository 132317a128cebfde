"""What a file is known by: all that is read of it."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from upath import UPath

from preprocessing.case import Case
from preprocessing.fingerprint import digest_files
from preprocessing.storage import remove_folder


@pytest.mark.parametrize("ending", ["mhd", "nhdr"])
@pytest.mark.parametrize("remote", [False, True])
def test_values_beside_their_header_count(tmp_path, ending, remote):
    def digest(values, name):
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / name / f"ct.{ending}"), useCompression=False)
        root = UPath(tmp_path / name)
        if remote:
            root = UPath(f"memory://fingerprint-{ending}/{name}")
            for file in (tmp_path / name).iterdir():
                (root / file.name).write_bytes(file.read_bytes())
        case = Case(name, name, "", {"image": str(root / f"ct.{ending}")}, ())
        (found,) = digest_files([case], UPath(tmp_path / "memo.json")).values()
        return found

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    first = digest(values, "a")
    assert digest(values, "b") == first  # of one geometry and content
    assert digest(values[::-1].copy(), "b") != first
    assert digest(values, "a") == first


def test_the_mark_of_a_folder_goes_last(tmp_path, monkeypatch):
    folder = UPath(tmp_path / "pretrain")
    for name in ("a/checkpoint", "stage.json", "z"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    removed = []
    remove = type(folder.fs).rm

    def interrupted(self, path, **options):
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        remove(self, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(folder.fs), "rm", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(folder, "stage.json")
    assert (folder / "stage.json").exists()
    remove_folder(folder, "stage.json")
    assert not folder.exists()
