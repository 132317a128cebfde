"""What lightly makes of the same vectors, in a process of its own: `python lightly_losses.py LIGHTLY_FOLDER IN OUT`."""

import sys

import numpy as np
import torch


def main(folder: str, given: str, found: str) -> None:
    sys.path.append(folder)
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # its published wheels belong to PyTorch with CUDA; beside another build these operators are missing, which no
        # loss uses, but which it describes as it is imported
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss, SwaVLoss
    from lightly.loss.swav_loss import sinkhorn
    from lightly.utils.scheduler import cosine_schedule

    vectors = np.load(given)
    first, second = (torch.from_numpy(vectors[name]).requires_grad_() for name in ("first", "second"))
    scores = [torch.from_numpy(vectors[name]) for name in ("first_scores", "second_scores")]
    contrast = NTXentLoss(temperature=0.1)(first, second)
    gradient = torch.autograd.grad(contrast, [first, second])
    np.savez(
        found,
        contrast=contrast.detach().numpy(),
        gradient=torch.stack(gradient).numpy(),
        cosine=NegativeCosineSimilarity()(first, second).detach().numpy(),
        codes=sinkhorn(scores[0], iterations=3, epsilon=0.05).numpy(),
        swapped=SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)(scores, []).numpy(),
        momentum=np.array([cosine_schedule(step, 11, 0.996, 1.0) for step in range(11)]),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
