from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.training.loader import LoaderSettings, PatchLoader
from pipeline.training.tokens import Mirror, lesion_patches, real_pixels
from preprocessing.patchify import unpatchify
from tests.pipeline.fake_cache import FakeCache


@pytest.mark.parametrize(
    ("size", "patch", "axis", "channels"),
    [((32, 24), (8, 4), 0, 1), ((32, 24), (8, 4), 1, 2), ((8, 8, 12), (4, 2, 4), 2, 2)],
)
def test_a_mirrored_batch_is_the_mirrored_image(size, patch, axis, channels):
    cache = FakeCache(6, 3, size, patch, channels)
    scores = np.random.default_rng(0).random((6, cache.tokens)).astype("f4")
    batch = PatchLoader(cache, np.arange(6), LoaderSettings(), 0, 6, scores=scores).gather(np.arange(6))
    box = torch.tensor([[1] * len(size) + [s - 2 for s in size]]).repeat(6, 1)
    batch = replace(batch, box=box)
    chosen = torch.tensor([True, False] * 3)
    mirrored = Mirror(size, patch, channels, axis)(batch, chosen)

    def picture(values, count):
        return unpatchify(values, size, patch, count)

    for row in range(6):
        for name, count in (("patches", channels), ("label", 1)):
            before, after = (picture(getattr(b, name)[row], count) for b in (batch, mirrored))
            assert torch.equal(after, before.flip(1 + axis) if chosen[row] else before)
        grid_scores = [s[row].view(cache.grid) for s in (batch.scores, mirrored.scores)]
        assert torch.equal(grid_scores[1], grid_scores[0].flip(axis) if chosen[row] else grid_scores[0])
    assert mirrored.box[0, axis] == 2
    assert mirrored.box[0, len(size) + axis] == size[axis] - 1
    assert torch.equal(mirrored.box[1], box[1])


def test_real_pixels_are_those_inside_the_box():
    box = torch.tensor([[0, 3, 8, 10], [2, 0, 8, 12]])
    real = unpatchify(real_pixels(box, (8, 12), (4, 4)), (8, 12), (4, 4), 1)[:, 0]
    for row, (y0, x0, y1, x1) in enumerate(box.tolist()):
        expected = torch.zeros(8, 12, dtype=torch.bool)
        expected[y0:y1, x0:x1] = True
        assert torch.equal(real[row], expected)


def test_a_lesion_patch_is_more_than_half_lesion_and_at_most_half_padding():
    label = torch.zeros(1, 3, 4, dtype=torch.uint8)
    label[0, 0, :3] = 2
    label[0, 1, :2] = 1
    label[0, 2] = 1
    valid = torch.tensor([[255, 255, 127]], dtype=torch.uint8)
    assert lesion_patches(label, valid).tolist() == [[True, False, False]]
