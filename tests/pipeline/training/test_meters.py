import numpy as np
import pytest
import torch

from pipeline.training.loader import LoaderSettings, PatchLoader
from pipeline.training.meters import EpochMeter
from pipeline.training.session import LocalSession
from tests.pipeline.fake_cache import FakeCache


def test_the_epochs_means_equal_a_naive_count(tmp_path):
    cache = FakeCache(samples=12)
    cache.whole.labelled[3] = False
    batch = PatchLoader(cache, np.arange(12), LoaderSettings(), 0, 12).gather(np.arange(12))
    masked, loss = torch.rand(batch.valid.shape) < 0.6, torch.rand(12)
    meter = EpochMeter(torch.device("cpu"))
    from pipeline.training.loader import rows_of

    for rows in (torch.arange(5), torch.arange(5, 12)):
        meter.add(rows_of(batch, rows), loss[rows], masked[rows])
    found = meter.take(LocalSession(tmp_path))
    lesion = [[bool((p > 0).float().mean() > 0.5) for p in sample] for sample in batch.label]
    pairs = [(lesion[i][t], bool(masked[i, t])) for i in range(12) if i != 3 for t in range(cache.tokens)]
    hidden = sum(is_lesion and is_masked for is_lesion, is_masked in pairs)
    assert found["loss"] == pytest.approx(float(loss.mean()))
    assert found["masked"] == pytest.approx(float(masked.float().mean()))
    assert found["hit_rate"] == pytest.approx(hidden / sum(is_lesion for is_lesion, _ in pairs))
    assert found["lesion_seen"] == pytest.approx(1 - found["hit_rate"])
    assert found["lesion_masked"] == pytest.approx(hidden / sum(is_masked for _, is_masked in pairs))
    assert meter.take(LocalSession(tmp_path))["loss"] is None
