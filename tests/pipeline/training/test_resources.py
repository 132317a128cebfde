import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.training.precision import ResourceSettings


def test_a_range_of_workers_must_be_one():
    assert ResourceSettings(workers=3).most_workers == 3
    assert ResourceSettings(workers=1, max_workers=4).most_workers == 4
    with pytest.raises(ValidationError, match="max_workers = 2 is below workers = 3"):
        ResourceSettings(workers=3, max_workers=2)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4), st.integers(8, 64))
def test_a_part_never_grows_when_workers_go(most, workers, accumulate, batch):
    workers = min(workers, most)
    resources = ResourceSettings(workers=1, max_workers=most)
    parts = resources.parts(accumulate, batch, workers)
    assert 1 <= parts <= batch // workers  # the smallest share has a sample for every part

    def largest(workers, parts):
        share = -(-batch // workers)
        return -(-share // parts)

    full = resources.parts(accumulate, batch, most)
    assert largest(workers, parts) <= largest(most, full) + 1  # rounding aside


@pytest.mark.parametrize(
    ("gpu", "there", "device"), [("no", True, "cpu"), ("auto", True, "cuda"), ("yes", False, "cpu")]
)
def test_no_gpu_is_used_where_none_is_wanted(monkeypatch, gpu, there, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert ResourceSettings(gpu=gpu).device.type == device
