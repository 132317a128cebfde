from __future__ import annotations

import errno
import json
import os
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from preprocessing.build import build_cache, check_shapes
from preprocessing.cache import PatchCache, unpack_real
from preprocessing.cache_settings import CacheSettings
from preprocessing.case import Case
from preprocessing.errors import ConfigError, RunError
from preprocessing.geometry.letterbox import Geometry, place_image, place_label, restore
from preprocessing.geometry.patchify import unpatchify
from preprocessing.intensity import IntensitySettings, normalise
from preprocessing.layouts import DataSettings, load_cases
from preprocessing.lock import OwnedLock
from preprocessing.phantoms.ultrasound import write_busi_phantoms
from preprocessing.readers.images import read_case
from preprocessing.shards import plan
from preprocessing.storage import write_text

SETTINGS = CacheSettings(size=(64, 64), patch=(8, 8), row_group_kb=48, max_rejected=0.5)  # 4 samples a block


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    write_busi_phantoms(str(root), 20, 0)
    return root


@pytest.fixture(scope="module")
def built(phantoms, tmp_path_factory, ray_session):
    where = tmp_path_factory.mktemp("built") / "cache"
    return build(phantoms, where)[0]


@pytest.fixture
def copies(phantoms, built, tmp_path):
    """The data and its cache, to be spoilt."""
    shutil.copytree(phantoms, tmp_path / "data")
    shutil.copytree(built.root, tmp_path / "cache")
    return tmp_path / "data", tmp_path / "cache"


def build(root, where, settings=SETTINGS, **fields):
    data = DataSettings(root=str(root), **fields)
    said: list[str] = []
    return build_cache(*load_cases(data), data, settings, str(where), log=said.append), said


def shards(where):
    return {path.name: path.stat().st_mtime_ns for path in where.glob("patches-*.parquet")}


def test_the_cache_holds_what_was_read(built, phantoms):
    cases, _ = load_cases(DataSettings(root=str(phantoms)))
    assert built.cases["case"].tolist() == [case.id for case in cases]
    assert len(built.samples) == 20
    assert built.manifest["cases"] == 20
    assert (built.dims, built.channels, built.tokens, built.grid) == (2, 1, 64, (8, 8))
    batch = built.read(np.arange(20))
    images = unpatchify(batch.patches, built.size, built.patch, 1)
    labels = unpatchify(batch.label, built.size, built.patch, 1)[:, 0]
    geometries = [text for block in range(len(built.blocks)) for text in built.geometries(block)]
    for row, case in enumerate(cases):
        image, label = read_case(case, 2)
        geometry = Geometry.from_json(geometries[row])
        assert geometry.source == image.shape[1:]
        assert np.array_equal(batch.frame[row], geometry.box)
        expected = place_image(normalise(image[0], IntensitySettings())[None], geometry)
        assert np.array_equal(images[row], expected.astype(np.float16))
        assert np.array_equal(labels[row], place_label(label, geometry))
        real = np.zeros((64, 64))
        real[geometry.real] = 1
        share = real.reshape(8, 8, 8, 8).mean(axis=(1, 3)).ravel()
        assert np.array_equal(batch.valid[row], np.round(255 * share))
        bits = unpack_real(batch.real[row : row + 1], built.tokens, 64)
        assert np.array_equal(unpatchify(bits, built.size, built.patch, 1)[0, 0], real > 0)
        assert restore(labels[row], geometry).shape == image.shape[1:]
        assert built.cases.loc[row, "lesion_pixels"] == label.sum()
        assert tuple(built.cases.loc[row, "source_size"]) == label.shape
    assert batch.labelled.all()


def test_samples_are_gathered_in_the_order_asked_for(built):
    whole = built.read(np.arange(20))
    wanted = np.array([17, 3, 3, 0, 12, 19])
    some = built.read(wanted)
    for name, values in vars(some).items():
        assert np.array_equal(values, vars(whole)[name][wanted]), name
    assert some.sample.tolist() == wanted.tolist()
    assert len(built.read(np.array([], int)).patches) == 0
    assert len(built.blocks) > 3
    assert sum(block.rows for block in built.blocks) == 20
    chosen = [built.cases["case"][7], built.cases["case"][2]]
    assert built.sample_indices(chosen).tolist() == [2, 7]
    again = pickle.loads(pickle.dumps(built))
    assert np.array_equal(again.read_block(1).patches, built.read_block(1).patches)


def test_near_duplicates_share_a_group(built):
    groups = built.cases.groupby("group").size()
    assert (groups == 2).sum() == 1
    assert groups.max() == 2


def test_the_same_inputs_reuse_the_cache(copies):
    root, where = copies
    build(root, where)
    before = shards(where)
    cache, said = build(root, where)
    assert "up to date" in said[0]
    assert shards(where) == before
    assert sorted(p.name for p in where.iterdir() if not p.name.startswith("patches")) == [
        "cases.parquet", "hashes.json", "inputs.parquet", "manifest.json", "rejected.parquet", "samples.parquet",
    ]  # fmt: skip
    assert cache.fingerprint == PatchCache.open(str(where)).fingerprint


def test_a_cache_is_opened_without_a_look_into_its_shards(copies):
    root, where = copies
    cache, _ = build(root, where)
    names = [shard["file"] for shard in cache.manifest["shards"] if shard["rows"]]
    whole = pa.concat_tables([pq.read_table(where / name) for name in names])
    for name in names:
        (where / name).unlink()
    again = PatchCache.open(str(where))
    columns = ["sample", "case", "lesion"]
    assert again.samples[columns].to_dict("list") == whole.select(columns).to_pydict()
    assert again.frames.tolist() == whole["frame"].to_pylist()
    assert again.samples.groupby("block").size().tolist() == [block.rows for block in cache.blocks]


def test_touching_or_moving_the_files_changes_no_patch(copies, tmp_path):
    root, where = copies
    build(root, where)
    before = shards(where)
    for path in root.rglob("*.png"):
        os.utime(path)
    assert "up to date" in build(root, where)[1][0]
    root.rename(tmp_path / "moved")
    _, said = build(tmp_path / "moved", where)
    assert "the patches are kept" in said[0]
    assert shards(where) == before


def test_a_changed_file_or_setting_rebuilds_and_says_why(copies):
    root, where = copies
    before = PatchCache.open(str(where))
    file = root / "benign" / "benign (3).png"
    Image.fromarray(np.asarray(Image.open(file))[::-1]).save(file)
    after, said = build(root, where)
    assert "changed: " in said[0]
    assert "benign (3).png" in said[0]
    assert after.fingerprint != before.fingerprint
    with pytest.raises(RunError, match="rewritten"):
        before.read_block(0)
    mask = root / "benign" / "benign (1)_mask.png"
    Image.fromarray(np.asarray(Image.open(mask))[::-1]).save(mask)
    assert "benign (1)_mask.png" in build(root, where)[1][0]
    other = SETTINGS.model_copy(update={"intensity": {"image": IntensitySettings(high=99.0)}})
    _, said = build(root, where, other)
    assert "cache.intensity was {}, is {'image': {'kind': 'percentiles', 'low': 0.5, 'high': 99.0}}" in said[0]
    assert "up to date" in build(root, where, other.model_copy(update={"compression": 9}))[1][0]
    (root / "normal" / "normal (1).png").unlink()
    (root / "normal" / "normal (1)_mask.png").unlink()
    cache, said = build(root, where, other)
    assert "gone: " in said[0]
    assert len(cache.samples) == 19


def test_another_threshold_for_near_duplicates_keeps_the_patches(copies):
    root, where = copies
    before = shards(where)
    cache, said = build(root, where, duplicate_threshold=0.0)
    assert "the patches are kept" in said[0]
    assert cache.cases["group"].nunique() == 20
    assert shards(where) == before


def test_a_run_that_was_killed_goes_on_where_it_stopped(copies):
    root, where = copies
    whole = PatchCache.open(str(where)).read(np.arange(20))
    (where / "manifest.json").unlink()  # as a kill before the end leaves it
    standing = shards(where)
    lost = sorted(standing)[1]
    content = (where / lost).read_bytes()
    (where / lost).unlink()
    (where / f".writing-1234-{lost}").write_bytes(content[:100])
    half = sorted(standing)[2]
    (where / half).write_bytes(content[:1000])
    with pytest.raises(RunError, match="no complete patch cache"):
        PatchCache.open(str(where))
    cache, _ = build(root, where)
    assert all(shards(where)[name] == standing[name] for name in standing if name not in (lost, half))
    assert not list(where.glob(".writing*"))
    again = cache.read(np.arange(20))
    assert all(np.array_equal(values, vars(again)[name]) for name, values in vars(whole).items())


def test_what_a_worker_killed_on_the_way_left_is_swept(phantoms, tmp_path, ray_session):
    data, part = DataSettings(root=str(phantoms)), tmp_path / "cache" / ".writing-1234-patches-00000.parquet"

    def killed(done, total):
        part.write_bytes(b"PAR1")

    build_cache(*load_cases(data), data, SETTINGS, str(tmp_path / "cache"), killed, log=lambda line: None)
    assert not part.exists()


def test_another_version_is_refused_with_the_way_out(copies):
    root, where = copies
    manifest = json.loads((where / "manifest.json").read_text())
    (where / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    for attempt in (lambda: build(root, where), lambda: PatchCache.open(str(where))):
        with pytest.raises(RunError, match=r"version 99.*delete that folder, or set cache.dir"):
            attempt()


def test_a_second_writer_is_kept_out_and_readers_are_not(copies):
    root, where = copies
    build(root, where)  # the tables of another root
    with OwnedLock(str(where / "owner.json"), "the cache"):
        assert "up to date" in build(root, where)[1][-1]
        (root / "benign" / "benign (1).png").write_bytes((root / "benign" / "benign (2).png").read_bytes())
        with pytest.raises(RunError, match="in use"):
            build(root, where)


def spoil(root):
    """Five broken cases and what is to be said about them."""
    folder = root / "benign"
    whole = (folder / "benign (1).png").read_bytes()
    (folder / "benign (1).png").write_bytes(whole[: len(whole) // 2])
    (folder / "benign (2).png").write_bytes(b"")
    (folder / "benign (3)_mask.png").unlink()
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "benign (4)_mask.png")
    Image.fromarray(np.full((90, 90), 7, np.uint8)).save(folder / "benign (5).png")
    Image.fromarray(np.zeros((90, 90), np.uint8)).save(folder / "benign (5)_mask.png")
    return {
        "benign (1)": "cannot be read",
        "benign (2)": "0 bytes",
        "benign (3)": "no mask benign (3)_mask.png",
        "benign (4)": "the mask is 5 x 5",
        "benign (5)": "constant",
    }


def test_broken_cases_are_recorded_and_the_run_goes_on(copies):
    root, where = copies
    reasons = spoil(root)
    cache, _ = build(root, where)
    assert dict(zip(cache.rejected["case"], cache.rejected["reason"], strict=True)).keys() == reasons.keys()
    for row in cache.rejected.itertuples():
        assert reasons[row.case] in row.reason
        assert row.file.startswith(str(root))
    assert (cache.manifest["cases"], cache.manifest["rejected"]) == (15, 5)
    assert len(cache.samples) == 15
    assert not set(reasons) & set(cache.cases["case"])


def test_too_many_broken_cases_stop_the_run(copies):
    root, where = copies
    spoil(root)
    strict = SETTINGS.model_copy(update={"max_rejected": 0.2})
    with pytest.raises(
        RunError, match=r"5 of 20 cases cannot be used, cache.max_rejected allows a share of 0.2"
    ) as told:
        build(root, where, strict)
    assert "benign (3)" in str(told.value)
    build(root, where)
    with pytest.raises(RunError, match="5 of 20"):  # also where the cache stands
        build(root, where, strict)


def tiff(path, value):
    values = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    values[3, 3] = value
    Image.fromarray(values).save(path)


def test_unlabelled_cases_and_nan_in_a_manifest(tmp_path, ray_session):
    for name, value in (("a", 0.5), ("b", np.nan), ("c", 0.1)):
        tiff(tmp_path / f"{name}.tif", value)
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(tmp_path / "m.png")
    lines = ["case,image,label", "a,a.tif,", "b,b.tif,", "c,c.tif,m.png"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    cache, _ = build(tmp_path, tmp_path / "cache", layout="manifest")
    assert cache.rejected["reason"].tolist() == ["1 pixels are not finite (NaN or infinite)"]
    assert cache.samples["labelled"].tolist() == [False, True]
    batch = cache.read(np.array([1, 0]))
    assert batch.labelled.tolist() == [True, False]
    assert batch.label[0].any()
    assert not batch.label[1].any()


def test_a_full_disk_says_where_and_how_much(copies, monkeypatch):
    root, where = copies
    (where / "manifest.json").unlink()

    def full(path, text):
        if path.name == "manifest.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_text(path, text)

    monkeypatch.setattr("preprocessing.build.write_text", full)
    with pytest.raises(RunError, match=r"no space left in .*cache.*MiB are needed.*cache.dir"):
        build(root, where)
    assert not (where / "manifest.json").exists()


@pytest.mark.parametrize(("file", "needed"), [("a.nii.gz", "30 MiB"), ("a.png", "2 MiB")])
def test_what_a_full_disk_lacks_counts_all_samples_of_a_volume(tmp_path, monkeypatch, file, needed):
    """10 cases; a sample has 256 * 256 pixels of 3 bytes, 0.19 MiB, and a volume has up to 16 of them."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("preprocessing.build.digest_files", full)
    cases = [Case(str(n), str(n), "", {"image": file}, ()) for n in range(10)]
    settings = CacheSettings(size=(256, 256), most_samples=16)
    with pytest.raises(RunError, match=f"up to {needed} are needed"):
        build_cache(cases, [], DataSettings(), settings, str(tmp_path / "cache"))


def test_a_full_disk_in_a_worker_is_told_too_and_leaves_no_cache_that_looks_whole(copies, monkeypatch):
    root, where = copies
    monkeypatch.setattr("preprocessing.build._shard_row", no_space)
    with pytest.raises(RunError, match=r"no space left in .*MiB are needed"):
        build(root, where, SETTINGS.model_copy(update={"intensity": {"image": IntensitySettings(high=98.0)}}))
    assert not (where / "manifest.json").exists()
    assert not (where / "owner.json").exists()


def no_space(row, common):
    import preprocessing.build as module

    def fail(shard):
        raise OSError(errno.ENOSPC, "No space left on device")

    original, module.write_shard = module.write_shard, fail
    try:
        return _real_shard_row(row, common)
    finally:
        module.write_shard = original


def _real_shard_row(row, common):
    import importlib

    return importlib.import_module("preprocessing.build")._shard_row(row, common)


def test_a_folder_that_cannot_be_made_is_told(phantoms, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to"):
        build(phantoms, tmp_path / "file" / "cache")


def test_shapes_that_do_not_fit_are_found_before_the_work():
    cases = [Case("a", "a", "", {"ct": "1", "pet": "2"}, ()), Case("b", "b", "", {"ct": "1"}, ())]
    with pytest.raises(ConfigError) as caught:
        check_shapes(cases, 3, SETTINGS)
    assert len(caught.value.mistakes) == 2


def test_shards_keep_the_order_and_hold_whole_blocks():
    cases = [Case(str(i), "", "", {"x": "x.png"}, ()) for i in range(1000)]
    parts = plan(cases, SETTINGS, 1)
    assert [case for part in parts for case in part] == cases
    assert len({len(part) for part in parts[:-1]}) == 1
    assert len(parts[0]) % 4 == 0
    assert 10 <= len(parts) <= 16
