"""An encoder that saw test cases is refused, whatever the files are called and wherever they lie."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipeline.checkpoint import save_weights
from pipeline.seen import check_unseen, images_of
from preprocessing.errors import RunError


def cache_of(**images: list[str]) -> SimpleNamespace:
    """Stands for a cache of cases with these digests of their images."""
    return SimpleNamespace(image_digests=lambda cases: {case: images[case] for case in cases})


def encoder_at(folder, **card) -> str:
    save_weights(folder / "encoder", {}, {"kind": "encoder", **card})
    return str(folder / "encoder")


def test_a_test_case_that_was_seen_is_named(tmp_path):
    there = cache_of(a=["11" * 32], b=["22" * 32, "33" * 32], c=["44" * 32])
    encoder = encoder_at(tmp_path, seen=images_of(there, ["a", "b"]))
    here = cache_of(x=["33" * 32], y=["44" * 32], z=["55" * 32])  # x is one of b's modalities under another name
    check_unseen(encoder, here, ["y", "z"])
    with pytest.raises(RunError, match=r"saw 1 of the 2 test cases \(x\)\. .*pretrain\.include_test"):
        check_unseen(encoder, here, ["x", "y"])


def test_an_encoder_that_tells_nothing_is_told_of(tmp_path, capsys):
    check_unseen(encoder_at(tmp_path), cache_of(), [])
    assert "does not say which images it saw" in capsys.readouterr().out
