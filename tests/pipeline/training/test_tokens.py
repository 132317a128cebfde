import torch

from pipeline.training.tokens import lesion_patches


def test_a_lesion_patch_is_more_than_half_lesion_and_at_most_half_padding():
    label = torch.zeros(1, 3, 4, dtype=torch.uint8)
    label[0, 0, :3] = 2
    label[0, 1, :2] = 1
    label[0, 2] = 1
    valid = torch.tensor([[255, 255, 127]], dtype=torch.uint8)
    assert lesion_patches(label, valid).tolist() == [[True, False, False]]
