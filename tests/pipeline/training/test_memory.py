"""A worker whose memory is limited says so, with the settings that need less."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from upath import UPath

from pipeline.pretrain import PretrainTask, pretrain_loop
from pipeline.training.group import train_group
from pipeline.training.memory import MemoryShortage, memory_told
from pipeline.training.session import Session
from preprocessing.errors import RunError
from preprocessing.lock import OwnedLock


def limited_loop(task: PretrainTask, session: Session) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 600 * 2**20,) * 2)
    pretrain_loop(task, session)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set relative to what /proc tells")
def test_a_model_larger_than_a_workers_memory_ends_with_what_to_do(tiny, tmp_path, ray_session):
    task = tiny.task(tmp_path / "run", model__width=4608, resources__max_failures=0)
    with OwnedLock(str(tmp_path / "owner.json"), "a test") as lock, pytest.raises(RunError) as told:
        train_group(limited_loop, task, UPath(task.folder), task.config.resources, 2, lock.file, lock.token)
    assert "the machine's memory is too small; raise pretrain.accumulate (now 1)" in str(told.value)
    assert "Traceback" not in str(told.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "the GPU's memory is too small (CUDA"),
        (MemoryError(), "the machine's memory is too small"),
        (OSError(12, "Cannot allocate memory"), "the machine's memory is too small"),
    ],
)
def test_every_form_of_it(error, told):
    with pytest.raises(MemoryShortage) as caught, memory_told("finetune", 3):
        raise error
    assert told in str(caught.value)
    assert "raise finetune.accumulate (now 3)" in str(caught.value)


def test_a_method_whose_steps_must_stay_whole_is_not_told_to_split_them():
    with pytest.raises(MemoryShortage, match=r"lower pretrain\.batch") as caught, memory_told("pretrain", 1, False):
        raise MemoryError
    assert "accumulate" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), OSError(2, "no such file"), RunError("told already")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, memory_told("finetune", 3):
        raise error
    assert caught.value is error
