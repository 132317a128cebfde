"""Volumes into the cache: what is rejected and why, that nothing names a patient, and that memory is bounded."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from upath import UPath

from preprocessing.build import check_shapes
from preprocessing.cache_settings import CacheSettings
from preprocessing.case import Case
from preprocessing.errors import ConfigError
from preprocessing.fingerprint import digest_files
from preprocessing.layouts import brats, hecktor
from preprocessing.lock import OwnedLock
from preprocessing.phantoms.volumes import write_brats_phantoms, write_hecktor_phantoms
from preprocessing.shards import Shard, write_shard
from tests.preprocessing.readers.dicom_files import NAME, series

PETCT = CacheSettings(
    size=(64, 64),
    patch=(8, 8),
    spacing=(6, 4, 4),
    foreground="ct",
    extent="common",
    label_values=(1, 2),
    intensity={"CT": {"kind": "window", "low": -160, "high": 240}, "PT": {"kind": "log", "low": 0, "high": 20}},
)
MRI = CacheSettings(size=(8, 24, 24), patch=(4, 8, 8), spacing=(5, 5, 5), foreground="mri")


def write(folder, cases, settings):
    folder.mkdir(exist_ok=True)
    with OwnedLock(str(folder / "owner.json"), "the cache") as lock:
        shard = Shard(
            str(folder), "patches-00000.parquet", tuple(cases), settings, len(settings.size), "f",
            str(folder / "owner.json"), lock.token,
        )  # fmt: skip
        return write_shard(shard)


@pytest.fixture(scope="module")
def petct(tmp_path_factory):
    root = tmp_path_factory.mktemp("petct")
    write_hecktor_phantoms(str(root), 3, 0)
    return root


def test_phantoms_of_both_kinds_become_samples(petct, tmp_path):
    cases, _ = hecktor.find(str(petct))
    report = write(tmp_path / "petct", cases, PETCT)
    assert report.rejected == []
    assert [facts["case"] for facts in report.cases] == [case.id for case in cases]
    rows = pq.read_table(tmp_path / "petct" / "patches-00000.parquet").to_pandas()
    assert rows.groupby("case").size().min() > 5
    assert (rows.groupby("case")["lesion"].sum() > 0).sum() == sum(bool(case.labels) for case in cases)
    write_brats_phantoms(str(tmp_path / "mri"), 2, 0)
    report = write(tmp_path / "cache", brats.find(str(tmp_path / "mri"))[0], MRI)
    assert report.rejected == []
    rows = pq.read_table(tmp_path / "cache" / "patches-00000.parquet").to_pandas()
    patches = np.stack([np.frombuffer(p, "<f2") for p in rows["patches"]]).reshape(len(rows), 18, 4, 256)
    real = np.stack([np.unpackbits(np.frombuffer(r, np.uint8), count=18 * 256) for r in rows["real"]])
    assert patches.min() >= 0
    assert patches.max() <= 1
    background = real.reshape(len(rows), 18, 1, 256) == 0
    assert (patches * background == 0).all()


def change(file, values=None, affine=None, content=None):
    if content is not None:
        Path(file).write_bytes(content)
        return
    image = nib.load(file)
    array = np.asarray(image.dataobj) if values is None else values(np.asarray(image.dataobj).copy())
    changed = nib.Nifti1Image(array, None, header=image.header)
    changed.set_sform(image.affine if affine is None else affine(image.affine.copy()), 1)
    changed.set_qform(None, 0)
    nib.save(changed, file)


def with_nan(values):
    values = values.astype(np.float32)
    values[3, 4, 5] = np.nan
    return values


def flattened(affine):
    affine[:3, 0] = 0
    return affine


def moved(affine):
    affine[:3, 3] += 7
    return affine


BAD = {
    "truncated gzip": ("CT", lambda f: change(f, content=Path(f).read_bytes()[:4000]), "cut short|truncated|damaged"),
    "header of zeros": ("CT", lambda f: change(f, content=gzip.compress(bytes(4000))), "only zeros"),
    "4D": ("PT", lambda f: change(f, lambda v: np.stack([v, v], -1)), "4 axes|4D"),
    "NaN": ("PT", lambda f: change(f, with_nan), "1 of .* not finite"),
    "constant": ("PT", lambda f: change(f, np.zeros_like), "blank|constant"),
    "mask of another size": ("label", lambda f: change(f, lambda v: v[:-3]), "voxels|mm"),
    "mask elsewhere": ("label", lambda f: change(f, affine=moved), "mm"),
    "affine of zero determinant": ("CT", lambda f: change(f, affine=flattened), "affine|volume in space|axes"),
    "a label outside the map": ("label", lambda f: change(f, lambda v: (v * 5).astype(np.uint8)), "class ids .*10"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_volume_is_one_clear_line_and_the_others_go_on(petct, tmp_path, what):
    write_hecktor_phantoms(str(tmp_path / "scans"), 2, 0)
    cases, _ = hecktor.find(str(tmp_path / "scans"))
    part, spoil, reason = BAD[what]
    file = cases[0].labels[0] if part == "label" else cases[0].images[part]
    spoil(file)
    report = write(tmp_path / "cache", cases, PETCT)
    (rejection,) = report.rejected
    assert (rejection.case, rejection.file) == (cases[0].id, file)
    assert re.search(reason, rejection.reason), rejection.reason
    assert "\n" not in rejection.reason
    assert [facts["case"] for facts in report.cases] == [cases[1].id]


def test_a_modality_that_no_scan_has_is_a_mistake_in_the_configuration(petct):
    cases, _ = hecktor.find(str(petct))
    wrong = CacheSettings(size=(64, 64), reference="MR", intensity={"Pt": {"kind": "log", "low": 0, "high": 20}})
    with pytest.raises(ConfigError) as told:
        check_shapes(cases, 2, wrong)
    assert told.value.mistakes == [
        "cache.reference names 'MR', the scans have CT, PT",
        "cache.intensity names 'Pt', the scans have CT, PT",
    ]


def test_no_tag_that_names_a_patient_reaches_the_cache(tmp_path):
    tags = {"PatientID": "MRN4711", "PatientBirthDate": "19700101", "StudyDescription": "Doe staging"}
    series(tmp_path / "ct", **tags)
    series(tmp_path / "broken", positions=[(-20.0, -30.0, z) for z in (0, 3, 6, 12, 15, 18)], **tags)
    cases = [Case(name, name, "", {"CT": str(tmp_path / name)}, ()) for name in ("broken", "ct")]
    settings = CacheSettings(size=(16, 16), patch=(4, 4))
    report = write(tmp_path / "cache", cases, settings)
    assert [r.case for r in report.rejected] == ["broken"]
    assert "slice" in report.rejected[0].reason
    assert len(report.cases) == 1
    table = pq.read_table(tmp_path / "cache" / "patches-00000.parquet")
    written = [(tmp_path / "cache" / "patches-00000.parquet").read_bytes(), repr(table.to_pydict()).encode()]
    written += [report.to_json().encode(), repr(table.schema.metadata).encode()]
    for text in (NAME, "Doe", "MRN4711", "19700101"):
        assert not any(text.encode() in content for content in written), text


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_cases(tmp_path):
    """Peak memory of a process that writes 4, then 40 volumes: the difference is less than two of them."""
    write_hecktor_phantoms(str(tmp_path / "scans"), 40, 0)
    few, many = (_peak(tmp_path, count) for count in (4, 40))
    volume = 80 * 80 * 40 * 4 * 2
    assert many - few < 2 * volume + 16 * 2**20


def _peak(folder, count):
    """Bytes."""
    code = f"""
import resource
from pathlib import Path
from preprocessing.errors import ConfigError
from preprocessing.fingerprint import digest_files
from preprocessing.layouts import hecktor
from tests.preprocessing.test_volume_shards import PETCT, write
cases = hecktor.find({str(folder / "scans")!r})[0][:{count}]
write(Path({str(folder / f"cache{count}")!r}), cases, PETCT)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    here = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def test_a_series_is_known_by_its_choice_and_its_content(tmp_path):
    for name in ("CT", "PT"):
        series(tmp_path / "scan", Modality=name, SeriesInstanceUID=f"1.2.{len(name)}.{name == 'CT':d}")
    (tmp_path / "scan" / ".hidden").write_text("x")

    def digests(memo=None):
        cases = [Case(kind, kind, "", {"image": f"{tmp_path / 'scan'}#{kind}"}, ()) for kind in ("CT", "PT")]
        return digest_files(cases, memo)

    first = digests(UPath(tmp_path / "memo.json"))
    assert len(set(first.values())) == 2
    (tmp_path / "scan" / ".hidden").write_text("y")
    assert digests() == first == digests(UPath(tmp_path / "memo.json"))
    file = next((tmp_path / "scan").glob("CT*.dcm"))
    file.write_bytes(file.read_bytes()[:-2] + b"xx")
    assert not set(digests(UPath(tmp_path / "memo.json")).values()) & set(first.values())


def test_a_file_with_a_number_sign_is_a_file(tmp_path):
    (tmp_path / "im#1.nii.gz").write_bytes(b"one")
    case = Case("a", "a", "", {"image": str(tmp_path / "im#1.nii.gz")}, ())
    (first,) = digest_files([case]).values()
    (tmp_path / "im#1.nii.gz").write_bytes(b"two")
    assert digest_files([case])[case.images["image"]] != first != "missing"
