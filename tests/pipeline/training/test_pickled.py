"""Tune's pickles are read only where no other user could have written them."""

from __future__ import annotations

import os

import pytest
from upath import UPath

from pipeline.training.pickled import check_owner_of_pickles
from preprocessing.errors import RunError


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / "search"
    (folder / "search_00000").mkdir(parents=True)
    for name in ("tuner.pkl", "search_00000/params.pkl", "search_00000/progress.csv"):
        (folder / name).touch()
    return folder


def test_ones_own_are_read(experiment):
    check_owner_of_pickles(UPath(experiment))
    (experiment / "search_00000" / "progress.csv").chmod(0o666)  # text, which runs nothing
    check_owner_of_pickles(UPath(experiment))


def test_what_every_user_may_write_is_refused(experiment):
    (experiment / "search_00000" / "params.pkl").chmod(0o666)
    with pytest.raises(RunError, match=r"params\.pkl may be written by every user"):
        check_owner_of_pickles(UPath(experiment))


def test_a_folder_where_every_user_may_put_files_is_refused(experiment):
    (experiment / "search_00000").chmod(0o777)
    with pytest.raises(RunError, match="search_00000 may be written by every user"):
        check_owner_of_pickles(UPath(experiment))


def test_a_link_is_refused(experiment, tmp_path):
    (experiment / "tuner.pkl").unlink()
    (experiment / "tuner.pkl").symlink_to(tmp_path / "other.pkl")
    with pytest.raises(RunError, match=r"tuner\.pkl is a link"):
        check_owner_of_pickles(UPath(experiment))


def test_another_users_are_refused(experiment, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(RunError, match="belongs to another user"):
        check_owner_of_pickles(UPath(experiment))
