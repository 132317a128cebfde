import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.masking import choose_mask, kept_tokens, keyed_uniform


def naive_mask(real, scores, noise, ratio, strength):
    """The masked patches of one sample, by sorting a Python list."""
    candidates = [t for t in range(len(real)) if real[t]]
    candidates.sort(key=lambda t: (noise[t] + strength * scores[t], t))
    visible = min(max(1, round(len(candidates) * (1 - ratio))), max(1, round(len(real) * (1 - ratio))))
    return set(candidates[visible:])


@settings(max_examples=60)
@given(
    batch=st.integers(1, 4), tokens=st.integers(2, 40), ratio=st.floats(0.05, 0.95), strength=st.floats(0, 5),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_the_mask_equals_a_naive_one(batch, tokens, ratio, strength, seed):
    rng = np.random.default_rng(seed)
    real = rng.random((batch, tokens)) < 0.7
    real[:, 0] = True
    scores, noise = rng.normal(size=(batch, tokens)).astype("f4"), rng.random((batch, tokens)).astype("f4")
    plan = choose_mask(*(torch.from_numpy(a) for a in (real, scores, noise)), ratio, strength)
    rank = torch.from_numpy(noise) + strength * torch.from_numpy(scores)
    for row in range(batch):
        expected = naive_mask(real[row], np.zeros(tokens), rank[row].numpy(), ratio, 0.0)
        assert set(plan.masked[row].nonzero().flatten().tolist()) == expected
        seen = set(plan.keep[row][plan.attend[row]].tolist())
        assert seen | expected == set(np.flatnonzero(real[row]).tolist())
        assert not seen & expected


def test_padding_is_neither_seen_nor_reconstructed():
    real = torch.tensor([[True] * 6 + [False] * 10])
    plan = choose_mask(real, None, torch.rand(1, 16), 0.5, 0.0)
    assert plan.keep.shape == (1, kept_tokens(16, 0.5))
    assert plan.attend.sum() == 3
    assert plan.masked.sum() == 3
    assert not plan.masked[0, 6:].any()


def test_strict_selection_masks_the_highest_scores_and_none_masks_at_random():
    scores = torch.arange(100.0).expand(200, -1)
    noise = keyed_uniform(0, torch.arange(200), 100)
    real = torch.ones(200, 100, dtype=torch.bool)
    strict = choose_mask(real, scores, noise, 0.25, 1e6)
    assert strict.masked[:, 75:].all()
    random = choose_mask(real, scores, noise, 0.25, 0.0)
    assert random.masked[:, 75:].float().mean() == pytest.approx(0.25, abs=0.02)


def test_noise_depends_on_its_key_alone():
    whole = keyed_uniform(7, torch.arange(64), 50)
    assert torch.equal(whole[::2], keyed_uniform(7, torch.arange(0, 64, 2), 50))
    for other in (keyed_uniform(8, torch.arange(64), 50), keyed_uniform(7, torch.arange(64), 50, stream=1)):
        assert (whole == other).float().mean() < 0.01
    assert not torch.equal(whole, keyed_uniform(7, torch.arange(64) + 2**32, 50))  # more than 2^32 samples


def test_noise_is_uniform_and_uncorrelated():
    from scipy import stats

    noise = keyed_uniform(3, torch.arange(2000), 64).double().numpy()
    assert noise.min() >= 0
    assert noise.max() < 1
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 0.001
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.01  # neighbouring samples
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.01  # neighbouring tokens
