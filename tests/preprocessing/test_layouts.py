from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from preprocessing.errors import ConfigError
from preprocessing.given_splits import read_given
from preprocessing.layouts import DataSettings, has_phantoms, load_cases


def png(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)


def mistakes(**fields):
    with pytest.raises(ConfigError) as caught:
        load_cases(DataSettings(**fields))
    return caught.value.mistakes


def test_busi_finds_every_mask_of_an_image(tmp_path):
    for name in ("benign/benign (2)", "benign/benign (10)", "normal/normal (1)"):
        png(tmp_path / f"{name}.png")
        png(tmp_path / f"{name}_mask.png")
    for number in (1, 2, 10):
        png(tmp_path / f"benign/benign (10)_mask_{number}.png")
    cases, rejected = load_cases(DataSettings(root=str(tmp_path)))
    assert [case.id for case in cases] == ["benign (10)", "benign (2)", "normal (1)"]
    assert [case.stratum for case in cases] == ["benign", "benign", "normal"]
    assert [os.path.basename(mask) for mask in cases[0].labels] == [
        f"benign (10)_mask{end}.png" for end in ("", "_1", "_2", "_10")
    ]
    assert not rejected


def test_busi_rejects_images_without_mask_and_masks_without_image(tmp_path):
    png(tmp_path / "benign/a.png")
    png(tmp_path / "benign/a_mask.png")
    png(tmp_path / "benign/b.png")
    png(tmp_path / "malignant/c_mask.png")
    cases, rejected = load_cases(DataSettings(root=str(tmp_path)))
    assert [case.id for case in cases] == ["a"]
    assert [(r.case, os.path.basename(r.file)) for r in rejected] == [("b", "b.png"), ("c", "c_mask.png")]
    assert "no mask b_mask.png" in rejected[0].reason


def test_busi_on_the_real_images(busi_root):
    cases, rejected = load_cases(DataSettings(root=str(busi_root)))
    assert len(cases) == 585
    assert not rejected
    assert sum(len(case.labels) for case in cases) == 599


def test_roots_that_cannot_be_used(tmp_path):
    (tmp_path / "scans" / "benign").mkdir(parents=True)
    assert "is not set" in mistakes()[0]
    assert f"did you mean {tmp_path / 'scans'}" in mistakes(root=str(tmp_path / "scan"))[0]
    assert f"did you mean {tmp_path / 'scans'}" in mistakes(root=str(tmp_path))[0]
    assert "no case found" in mistakes(root=str(tmp_path / "scans"))[0]
    found = mistakes(root=str(tmp_path / "scan"), layout="bussi")
    assert len(found) == 2
    assert "did you mean busi" in found[0]


def table(root, rows, name="manifest.csv"):
    frame = pd.DataFrame(rows)
    frame.to_parquet(root / name) if name.endswith("parquet") else frame.to_csv(root / name, index=False)


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_a_manifest_of_any_data_set(tmp_path, name):
    for file in ("x/1.png", "x/2.png", "m/1.png", "m/1b.png"):
        png(tmp_path / file)
    rows = [
        {"case": "007", "group": "p1", "image": "x/1.png", "label": "m/1.png; m/1b.png", "split": "train", "age": 3},
        {"case": "008", "group": None, "image": "x/2.png", "label": None, "split": None, "age": 4},
    ]
    table(tmp_path, rows, name)
    cases, _ = load_cases(DataSettings(root=str(tmp_path), layout="manifest", manifest=name))
    assert [(c.id, c.group, c.split, len(c.labels)) for c in cases] == [
        ("007", "p1", "train", 2),
        ("008", "008", "", 0),
    ]
    assert cases[0].images == {"image": str(tmp_path / "x/1.png")}


def test_a_table_typed_by_hand(tmp_path):
    """Rows that end in a comma, blanks around cells and names, a mark at the beginning of the file."""
    for file in ("1.png", "2.png"):
        png(tmp_path / file)
    text = "\ufeffcase,group , image,split\na, p1,1.png,train,\nb,p1 ,2.png , train,\n"
    (tmp_path / "manifest.csv").write_text(text, encoding="utf-8")
    cases, _ = load_cases(DataSettings(root=str(tmp_path), layout="manifest"))
    assert [(c.id, c.group, c.split) for c in cases] == [("a", "p1", "train"), ("b", "p1", "train")]
    assert cases[1].images == {"image": str(tmp_path / "2.png")}
    (tmp_path / "manifest.csv").write_text("case,image\na,1.png\nb,2.png,,7\n")
    (told,) = mistakes(root=str(tmp_path), layout="manifest")
    assert "row 3 has more cells than the header: 7" in told
    (tmp_path / "splits.csv").write_text("case,split\n a,train,\n")
    assert read_given(str(tmp_path / "splits.csv"), ["a"]) == {"a": "train"}


def test_one_column_a_modality(tmp_path):
    png(tmp_path / "a.png")
    table(tmp_path, [{"case": "1", "pet": "a.png", "ct": "a.png", "note": "a.png"}])
    settings = DataSettings(root=str(tmp_path), layout="manifest")
    assert list(load_cases(settings)[0][0].images) == ["pet", "ct", "note"]
    chosen = settings.model_copy(update={"modalities": ("ct", "pet")})
    assert list(load_cases(chosen)[0][0].images) == ["ct", "pet"]
    assert "did you mean 'pet'" in mistakes(root=str(tmp_path), layout="manifest", modalities=("pett",))[0]


def test_all_mistakes_of_a_manifest_at_once(tmp_path):
    root = tmp_path / "data"
    png(root / "a.png")
    png(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [
        {"case": "1", "image": "a.png", "split": "train"},
        {"case": "1", "image": "gone.png", "split": ""},
        {"case": "2", "image": "../secret.png", "split": ""},
        {"case": "3", "image": "link.png", "split": "tset"},
        {"case": "4", "image": str(tmp_path / "secret.png"), "split": ""},
    ]
    table(root, rows)
    found = mistakes(root=str(root), layout="manifest")
    for part in (
        "row 3 (case 1): column image: there is no file or folder gone.png",
        "row 4 (case 2): column image: ../secret.png leaves data.root",
        "row 5 (case 3): column image: link.png leaves data.root",
        "row 5 (case 3): split is 'tset'",
        "row 6 (case 4): column image",
        "case 1 is named more than once",
    ):
        assert any(part in mistake for mistake in found), part
    assert len(found) == 6


def test_missing_files_are_shown_ten_at_a_time(tmp_path):
    table(tmp_path, [{"case": str(i), "image": f"{i}.png"} for i in range(25)])
    found = mistakes(root=str(tmp_path), layout="manifest")
    assert len(found) == 11
    assert found[-1] == "... and 15 more of this kind"


def test_mistyped_columns_name_the_nearest(tmp_path):
    table(tmp_path, [{"caes": "1", "image": "a.png", "lable": "a.png"}])
    found = mistakes(root=str(tmp_path), layout="manifest")
    assert any("column case is missing; did you mean 'caes'" in m for m in found)
    assert any("'lable' is not known; did you mean 'label'" in m for m in found)
    assert "no file" in mistakes(root=str(tmp_path), layout="manifest", manifest="other.csv")[0]


def test_given_splits_are_read_and_their_mistakes_found_early(tmp_path):
    for name in ("a", "b", "c"):
        png(tmp_path / f"{name}.png")
    table(tmp_path, [{"case": n, "group": g, "image": f"{n}.png"} for n, g in (("a", "p"), ("b", "p"), ("c", "q"))])
    settings = {"root": str(tmp_path), "layout": "manifest", "splits": str(tmp_path / "splits.csv")}
    table(tmp_path, [{"case": "a", "split": "train"}, {"case": "b", "split": "train"}, {"case": "c", "split": "test"}],
          "splits.csv")  # fmt: skip
    assert [case.split for case in load_cases(DataSettings(**settings))[0]] == ["train", "train", "test"]
    table(tmp_path, [{"case": "a", "split": "train"}, {"case": "b", "split": "test"}], "splits.csv")
    found = mistakes(**settings)
    assert len(found) == 1
    assert "a (train) and b (test) are of one group, p" in found[0]
    table(tmp_path, [{"case": "a", "split": "trian"}, {"case": "z", "split": "test"}], "splits.csv")
    found = mistakes(**settings)
    assert "trian" in found[0]
    assert "no case z" in found[1]
    assert "no file" in mistakes(**{**settings, "splits": str(tmp_path / "none.csv")})[0]


def test_two_scans_of_one_name_are_told_apart_by_the_user(tmp_path):
    for folder in ("benign", "malignant"):
        (tmp_path / folder).mkdir()
        for name in ("1.png", "1_mask.png"):
            (tmp_path / folder / name).touch()
    with pytest.raises(ConfigError, match="more than one scan is called 1"):
        load_cases(DataSettings(root=str(tmp_path)))


@pytest.mark.parametrize("name", ["../evil", "/abs", "a/../../b"])
def test_a_case_may_not_be_called_what_leads_out_of_the_results(tmp_path, name):
    (tmp_path / "a.png").touch()
    (tmp_path / "manifest.csv").write_text(f"case,image\n{name},a.png\n")
    with pytest.raises(ConfigError, match="may not begin with / or hold"):
        load_cases(DataSettings(root=str(tmp_path), layout="manifest"))


@pytest.mark.parametrize("layout", ["busi", "hecktor", "brats"])
def test_phantoms_are_known_as_such_and_their_mark_is_no_scan(tmp_path, layout):
    root = str(tmp_path / "scans")
    cases, rejected = load_cases(DataSettings(root=root, layout=layout, phantoms=3))
    assert (len(cases), rejected) == (3, [])
    assert has_phantoms(root)
    assert load_cases(DataSettings(root=root, layout=layout)) == (cases, rejected)
    assert not has_phantoms(str(tmp_path))
