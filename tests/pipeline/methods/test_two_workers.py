"""Two processes that train together: the same losses and gradients as one, for every method."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.methods import METHODS
from pipeline.training.global_batch import places, whole
from pipeline.training.loader import rows_of
from tests.pipeline.methods.samples import NAMES, losses, method, views

FIRST = 16  # the third step of eight samples
Found = tuple[torch.Tensor, dict[str, torch.Tensor]]


def step(name: str, rank: int, workers: int, wrap: bool = False) -> Found:
    """Losses of this worker's samples, and the gradients of the mean loss over all workers' samples.

    The gradients are averaged as DistributedDataParallel would, or by it (`wrap`), which takes seconds to import.
    """
    model = method(name)
    trained = torch.nn.parallel.DistributedDataParallel(model) if wrap else model
    batches = views(model, first=FIRST)
    own = batches[0].position % workers == rank
    batches = [rows_of(batch, own) for batch in batches]
    loss = trained(batches, model.ratio(0.5) or 0.0, model.strength(0.5) or 0.0, 3).loss
    (loss.sum() / 8 * workers).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    if workers > 1 and not wrap:
        for gradient in gradients.values():
            dist.all_reduce(gradient)
            gradient /= workers
    return loss.detach(), gradients


def gathered(rank: int) -> Found:
    """Rows of shares of different sizes, and gradients that come from the other worker's loss."""
    position = torch.tensor([[8, 10, 12], [9, 11]][rank])
    values = position.float()[:, None].requires_grad_(True)
    every = whole(values, position, 8)
    (every * (rank + 1.0)).sum().backward()
    return every.detach(), {"values": values.grad, "places": places(position, 8)}


def work(rank: int, folder: str, wrap: bool) -> None:
    """What a worker does; its results go into a file."""
    wait = timedelta(minutes=2)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=wait)
    try:
        found = {name: step(name, rank, 2, wrap) for name in NAMES}
        torch.save(found | {"gathered": gathered(rank)}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "ddp"])
def pair(request, tmp_path_factory):
    """What both workers, this process and another, came to, by method."""
    folder = tmp_path_factory.mktemp("pair")
    other = mp.get_context("spawn").Process(target=work, args=(1, str(folder), request.param))
    other.start()
    try:
        work(0, str(folder), request.param)
        other.join(60)
    finally:
        other.kill()
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_two_workers_train_like_one(pair, name):
    loss, gradients = step(name, 0, 1)
    both = torch.stack([pair[0][name][0], pair[1][name][0]], 1).flatten()  # positions are dealt in turn
    torch.testing.assert_close(both, loss, rtol=1e-4, atol=1e-5)
    for _, found in (worker[name] for worker in pair):
        assert found.keys() == gradients.keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-4)


def test_rows_come_in_the_order_of_their_positions_and_gradients_from_all_workers(pair):
    for every, found in (worker["gathered"] for worker in pair):
        assert every.flatten().tolist() == [8, 9, 10, 11, 12, 0, 0, 0]
        assert (found["values"] == 3.0).all()
    assert pair[0]["gathered"][1]["places"].tolist() == [0, 2, 4]


@pytest.mark.parametrize("name", NAMES)
def test_only_a_step_that_must_stay_whole_relates_its_samples(name):
    model = method(name)
    batches = views(model, first=FIRST)
    alone = losses(model, [rows_of(batch, torch.arange(2)) for batch in batches]).loss
    same = torch.allclose(alone, losses(model, batches).loss[:2], rtol=1e-4, atol=1e-5)
    assert same != METHODS[name].whole_batch
