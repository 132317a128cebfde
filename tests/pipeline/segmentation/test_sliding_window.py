"""Windows against their definition; blending against the identity, MONAI, and a count of the memory in use."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.segmentation.sliding_window import blend, importance
from preprocessing.geometry.windows import windows

SHARES = st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.8, 0.95])


def lengths(most: int) -> st.SearchStrategy[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Sizes of a volume and of a window, in two or three axes."""
    axes = st.integers(2, 3)
    return axes.flatmap(lambda d: st.tuples(*[st.tuples(*[st.integers(1, most)] * d)] * 2))


def test_windows_by_hand() -> None:
    assert windows((10, 3), (4, 6), 0.5) == [(0, -1), (2, -1), (4, -1), (6, -1)]
    assert windows((9, 4), (4, 4), 0.0) == [(0, 0), (2, 0), (5, 0)]
    assert windows((20,), (10,), 0.8) == [(0,), (2,), (4,), (6,), (8,), (10,)]  # 10 * (1 - 0.8) < 2 in floats
    assert windows((1, 2, 3), (4, 4, 4), 0.5) == [(-1, -1, 0)]


@settings(max_examples=200)
@given(st.integers(1, 60), st.integers(1, 25), st.integers(0, 99))
def test_windows_cover_evenly_and_overlap_enough(length: int, window: int, percent: int) -> None:
    starts = [start for (start,) in windows((length,), (window,), percent / 100)]
    if length <= window:
        (start,) = starts
        before, after = -start, window + start - length
        assert before >= 0
        assert after - before in (0, 1)
        return
    assert starts[0] == 0
    assert starts[-1] == length - window
    gaps = np.diff(starts)
    assert gaps.max(initial=1) - gaps.min(initial=gaps.max(initial=1)) <= 1
    # in whole hundredths of a voxel; where not one voxel may be passed over, one is
    assert all(100 * (window - gap) >= percent * window or gap == 1 for gap in gaps)
    widest = max(1, (100 - percent) * window // 100)
    assert (len(starts) - 2) * widest < length - window  # with one window less, the overlap would be too small


@settings(max_examples=60)
@given(lengths(9), SHARES, st.integers(1, 5), st.integers(0, 2**31))
def test_the_identity_gives_back_the_image_exactly(
    sizes: tuple[tuple[int, ...], tuple[int, ...]], overlap: float, batch: int, seed: int
) -> None:
    shape, size = sizes
    image = 1 + torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed))
    seen = []

    def identity(cut: Tensor, real: Tensor) -> Tensor:
        seen.append(len(cut))
        assert cut.shape[2:] == real.shape[2:] == size
        assert real.dtype == torch.bool
        assert torch.equal(real.expand_as(cut), cut > 0)  # every voxel of the image is 1 at least
        return cut

    assert torch.equal(blend(identity, image, size, overlap, batch, 2), image)
    assert max(seen) <= batch
    assert sum(seen) == len(windows(shape, size, overlap))


@pytest.mark.parametrize(
    ("shape", "size", "overlap"),
    [
        ((20, 32), (8, 8), 0.5),
        ((9, 14), (12, 8), 0.25),
        ((12, 18, 10), (6, 6, 4), 0.5),
        ((5, 16, 4), (8, 8, 8), 0.0),
        ((3, 4, 5), (6, 8, 5), 0.5),
    ],
)
def test_parity_with_monai(shape: tuple[int, ...], size: tuple[int, ...], overlap: float) -> None:
    # on axes where MONAI's steps end at the border: it moves the last window back, rather than to spread them evenly
    monai = pytest.importorskip("monai.inferers")
    torch.manual_seed(0)
    layer: Any = nn.Conv2d if len(shape) == 2 else nn.Conv3d
    network = nn.Sequential(layer(2, 4, 3, padding=1), nn.Tanh(), layer(4, 3, 3, padding=1), nn.Sigmoid()).eval()
    image = torch.rand(2, *shape)
    found = blend(lambda cut, real: network(cut), image, size, overlap, 3, 3)
    with torch.no_grad():
        expected = monai.sliding_window_inference(image[None], size, 2, network, overlap, mode="gaussian")[0]
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)


def test_unevenly_stepped_windows_are_the_weighted_mean() -> None:
    shape, size = (7, 11), (4, 5)
    values = torch.rand(len(windows(shape, size, 0.4)), 1, *size, generator=torch.Generator().manual_seed(3))
    done = iter(values)
    found = blend(lambda cut, real: torch.stack([next(done) for _ in cut]), torch.zeros(1, *shape), size, 0.4, 4, 1)
    total, weight = np.zeros(shape), np.zeros(shape)
    for (top, left), value in zip(windows(shape, size, 0.4), values[:, 0].double().numpy(), strict=True):
        for y in range(size[0]):
            for x in range(size[1]):
                away = ((y - 1.5) / (4 / 8)) ** 2 + ((x - 2) / (5 / 8)) ** 2
                share = max(float(np.exp(-away / 2)), 1e-3)
                total[top + y, left + x] += share * value[y, x]
                weight[top + y, left + x] += share
    assert np.allclose(found[0].numpy(), total / weight, atol=1e-6)


def test_importance_falls_from_the_centre_and_never_to_nothing() -> None:
    weight = importance((9, 16, 8))
    assert weight.shape == (9, 16, 8)
    assert weight.min() == pytest.approx(1e-3)
    assert torch.equal(weight, weight.flip(0, 1, 2))
    assert importance((9, 9))[4, 4] == 1
    assert float(importance((64,))[32 - 8]) == pytest.approx(np.exp(-0.5 * (7.5 / 8) ** 2))


class Memory(TorchDispatchMode):
    """Most bytes that the tensors made under it held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: list[weakref.ref[Tensor]] = []
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self._alive.append(weakref.ref(made))
        alive = [tensor for reference in self._alive if (tensor := reference()) is not None]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in alive}
        self.peak = max(self.peak, sum(storages.values()))
        self._alive = [reference for reference in self._alive if reference() is not None]
        return made


def test_memory_does_not_grow_with_the_number_of_windows() -> None:
    image, size = torch.rand(1, 24, 24, 24), (8, 8, 8)
    peaks = []
    for overlap, count in ((0.0, 27), (0.5, 125)):
        assert len(windows(image.shape[1:], size, overlap)) == count
        with Memory() as memory:
            blend(lambda cut, real: torch.cat([cut, cut], 1), image, size, overlap, 4, 2)
        peaks.append(memory.peak)
    assert peaks[0] == peaks[1]
    kept = (1 + 2 + 1) * 24**3 * 4  # the image, two regions, and the weights
    assert kept < peaks[0] < kept + 5 * 4 * 8**3 * 4  # and a few batches of windows


def test_what_cannot_be_covered_is_refused() -> None:
    for shape, size in (((4, 4), (2, 2, 2)), ((4, 0), (2, 2)), ((4, 4), (2, 0))):
        with pytest.raises(ValueError, match="cannot cover"):
            windows(shape, size, 0.5)
    for overlap in (-0.1, 1.0):
        with pytest.raises(ValueError, match="below 1"):
            windows((4, 4), (2, 2), overlap)
    with pytest.raises(ValueError, match=r"is \(1, 1, 2, 2\), expected \(1, 3, 2, 2\)"):
        blend(lambda cut, real: cut, torch.rand(1, 2, 2), (2, 2), 0.5, 4, 3)
