"""Weights that were trained on test cases are not judged on them, whatever files are called and wherever they lie."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.checkpoint import save_weights
from pipeline.seen import check_unseen, images_of, seen, seen_cases, unseen_cases
from preprocessing.case import Case
from preprocessing.errors import RunError


def cache_of(**images: list[str]) -> SimpleNamespace:
    """Stands for a cache of cases with these digests of their images."""
    return SimpleNamespace(image_digests=lambda cases: {case: images[case] for case in cases})


def checkpoint_at(folder, kind, **card) -> str:
    save_weights(folder / kind, {}, {"kind": kind, **card})
    return str(folder / kind)


def test_a_test_case_that_an_encoder_saw_is_named(tmp_path):
    there = cache_of(a=["11" * 32], b=["22" * 32, "33" * 32], c=["44" * 32])
    encoder = checkpoint_at(tmp_path, "encoder", seen=images_of(there, ["a", "b"]))
    here = cache_of(x=["33" * 32], y=["44" * 32], z=["55" * 32])  # x is one of b's modalities under another name
    check_unseen(encoder, here, ["y", "z"])
    with pytest.raises(RunError, match=r"saw 1 of the 2 test cases \(x\)\. .*pretrain\.include_test"):
        check_unseen(encoder, here, ["x", "y"])


@pytest.mark.parametrize("card", [{}, {"seen": seen(["ETag abc 3"])}])
def test_an_encoder_of_which_nothing_tells_is_told_of(tmp_path, capsys, card):
    """An old one, or one whose images were known by a store's own checksums."""
    check_unseen(checkpoint_at(tmp_path, "encoder", **card), cache_of(x=["11" * 32]), ["x"])
    assert "nothing tells whether it saw test cases" in capsys.readouterr().out


def test_digests_of_several_kinds_count_where_they_can():
    known = seen(["ETag abc 3", "11" * 32])
    assert seen_cases(known, {"a": ["ETag abc 3"], "b": ["11" * 32], "c": ["ETag abd 3", "22" * 32]}) == ["a", "b"]
    assert seen_cases(known, {"a": ["crc32c abc 3"]}) is None
    assert seen_cases(known, {}) == []


def test_a_segmenter_is_judged_on_what_it_did_not_see(tmp_path, capsys):
    cases = [Case(name, name, "", {"image": f"{name}.png"}, (f"{name}_mask.png",)) for name in "abcd"]
    digests = {file: f"digest of {file}" for case in cases for file in case.files}
    saw = seen(digests[f"{name}.png"] for name in "ab")
    segmenter = checkpoint_at(tmp_path, "segmenter", trained={"seen": saw})
    assert [case.id for case in unseen_cases(segmenter, cases, digests)] == ["c", "d"]
    assert "2 of 4 labelled cases (a, b) left out" in capsys.readouterr().out
    with pytest.raises(RunError, match="none is left"):
        unseen_cases(segmenter, cases[:2], digests)
    segmenter = checkpoint_at(
        tmp_path / "more", "segmenter", trained={"seen": saw, "pretrained_on": seen(["11", *digests.values()])}
    )
    assert len(unseen_cases(segmenter, cases, digests)) == 2
    assert "its pretraining saw 4 of these cases (a, b, c and 1 more), without labels" in capsys.readouterr().out
    kin = [replace(case, group="patient") if case.id in "ac" else case for case in cases]
    assert [case.id for case in unseen_cases(segmenter, kin, digests)] == ["d"]  # c is another image of a's patient
    assert "3 of 4 labelled cases (a, b, c) left out" in capsys.readouterr().out
    assert len(unseen_cases(checkpoint_at(tmp_path / "old", "segmenter", trained={}), cases, digests)) == 4
    assert "nothing tells" in capsys.readouterr().out
