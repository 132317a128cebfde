"""Two processes that train together: the same losses and gradients as one, for every method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from pipeline.methods import METHODS
from pipeline.training.global_batch import places, whole
from pipeline.training.loader import rows_of
from tests.pipeline.methods.samples import NAMES, losses, method, views

FIRST = 16  # the third step of eight samples


def step(name: str, rank: int, workers: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Losses of this worker's samples and the gradients that a step leaves, as the learner computes them."""
    model = method(name)
    trained = model if workers == 1 else DistributedDataParallel(model)
    batches = views(model, first=FIRST)
    own = batches[0].position % workers == rank
    batches = [rows_of(batch, own) for batch in batches]
    loss = losses(trained if workers == 1 else _Ratios(trained, model), batches).loss
    (loss.sum() / 8 * workers).backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


class _Ratios:
    """A wrapped model that is called as wrapped and answers as itself."""

    def __init__(self, wrapped, model):
        self._wrapped, self.ratio, self.strength = wrapped, model.ratio, model.strength

    def __call__(self, *args):
        return self._wrapped(*args)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {name: step(name, rank, 2) for name in NAMES}
    # shares of different sizes, and a gradient that comes from the other worker's loss
    position = torch.tensor([[8, 10, 12], [9, 11]][rank])
    values = position.float()[:, None].requires_grad_(True)
    every = whole(values, position, 8)
    (every * (rank + 1.0)).sum().backward()
    found["whole"] = (every.detach(), {"values": values.grad, "places": places(position, 8)})
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What both workers came to, by method."""
    folder = tmp_path_factory.mktemp("pair")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_two_workers_train_like_one(pair, name):
    loss, gradients = step(name, 0, 1)
    both = torch.stack([pair[0][name][0], pair[1][name][0]], 1).flatten()  # positions are dealt in turn
    torch.testing.assert_close(both, loss, rtol=1e-4, atol=1e-5)
    for _, found in (worker[name] for worker in pair):
        assert found.keys() == gradients.keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-5)


def test_the_samples_of_a_step_that_must_stay_whole_do_depend_on_each_other():
    for name in NAMES:
        model = method(name)
        batches = views(model, first=FIRST)
        alone = losses(model, [rows_of(batch, torch.arange(2)) for batch in batches]).loss
        same = torch.allclose(alone, losses(model, batches).loss[:2], rtol=1e-4, atol=1e-5)
        assert same != METHODS[name].whole_batch


def test_rows_come_in_the_order_of_their_positions_and_gradients_from_all_workers(pair):
    for every, found in (worker["whole"] for worker in pair):
        assert every.flatten().tolist() == [8, 9, 10, 11, 12, 0, 0, 0]
        assert (found["values"] == 3.0).all()
    assert pair[0]["whole"][1]["places"].tolist() == [0, 2, 4]
