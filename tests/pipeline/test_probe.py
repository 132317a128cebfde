import numpy as np
import pytest
import torch
from monai.metrics import compute_dice

from pipeline.probe import Probe, sample_dsc
from pipeline.training.loader import LoaderSettings, PatchLoader
from tests.pipeline.fake_cache import FakeCache


class Features(torch.nn.Module):
    """Stands for an encoder: its tokens are given."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens, self.place = tokens, 0

    def forward(self, patches, coords, attend):
        part = self.tokens[self.place : self.place + len(patches)]
        self.place = (self.place + len(patches)) % len(self.tokens)
        return part


@pytest.fixture
def cache():
    return FakeCache(samples=30, size=(32, 32))


def probe_for(cache, groups=None):
    loader = PatchLoader(cache, np.arange(30), LoaderSettings(), 0, 8)
    return Probe(loader, np.arange(30), groups or [str(i) for i in range(30)], torch.rand(cache.tokens, 2))


def test_tokens_that_know_the_lesion_reach_its_mask(cache):
    label = torch.from_numpy(cache.whole.label).float()
    assert probe_for(cache).dsc(Features(label)) > 0.95


def test_tokens_that_know_nothing_reach_no_more_than_the_whole_image(cache):
    torch.manual_seed(0)
    label = torch.from_numpy(cache.whole.label).float()
    everything = float(sample_dsc(torch.ones_like(label), label).mean())
    assert probe_for(cache).dsc(Features(torch.randn(30, cache.tokens, 16))) < everything + 0.05


def test_a_rare_lesion_is_found_although_the_regression_stays_near_zero(cache):
    """One pixel of each image is lesion; the tokens leave 13 of the 16 patches in question, of which it is in one."""
    cache.whole.label[:] = 0
    cache.whole.label[np.arange(30), np.arange(30) % 13, 5] = 1
    tokens = (torch.arange(cache.tokens) < 13).float().expand(30, -1)[..., None]
    assert probe_for(cache).dsc(Features(tokens)) == pytest.approx(2 / (1 + 13))


def test_a_group_is_held_out_as_a_whole(cache):
    """Tokens that only name their case let a fit find it again, but not when the whole group is held out."""
    names = torch.nn.functional.one_hot(torch.arange(30) // 2, 15).float()
    tokens = names[:, None].expand(-1, cache.tokens, -1) * torch.eye(cache.tokens, 15)[None]
    probe = probe_for(cache, groups=[str(i // 2) for i in range(30)])
    folds = probe._fold.view(15, 2)
    assert torch.equal(folds[:, 0], folds[:, 1])
    assert 0 <= probe.dsc(Features(tokens)) <= 1


def test_without_lesions_or_groups_there_is_no_probe(cache):
    assert not probe_for(cache, groups=["one"] * 30).usable
    cache.whole.label[:] = 0
    assert not probe_for(cache).usable


def test_the_dsc_equals_monais():
    generator = torch.Generator().manual_seed(0)
    predicted, label = (torch.rand(5, 6, 4, generator=generator) > 0.5 for _ in range(2))
    label[2] = False
    expected = compute_dice(predicted.view(5, 1, 6, 4), label.view(5, 1, 6, 4))[:, 0]
    torch.testing.assert_close(sample_dsc(predicted, label.float()), expected, equal_nan=True)
