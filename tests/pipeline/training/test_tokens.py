import torch

from pipeline.training.tokens import lesion_patches, real_pixels
from preprocessing.patchify import unpatchify


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
