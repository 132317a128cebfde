"""SimCLR's, BYOL's and SwAV's losses against lightly's, which `make test` puts into `build/lightly`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.methods.byol import distance
from pipeline.methods.simclr import nt_xent
from pipeline.methods.swav import sinkhorn
from pipeline.models.image_level import image_vector
from pipeline.models.momentum import rising
from tests.pipeline.methods import lightly_losses
from tests.pipeline.methods.samples import losses, method, views

LIGHTLY = Path(__file__).parents[3] / "build" / "lightly"
pytestmark = pytest.mark.skipif(not LIGHTLY.is_dir(), reason=f"lightly is not in {LIGHTLY} (make lightly)")


@pytest.fixture(scope="module")
def swav():
    """A small SwAV, its two views of eight samples and the similarities [8, 4] to its prototypes that they come to."""
    model = method("swav")
    batches = views(model)
    with torch.no_grad():
        z = [model.head(image_vector(model.encoder, b.patches, model.coords, b.valid >= 128)) for b in batches]
        return model, batches, [F.normalize(v, dim=1) @ F.normalize(model.prototypes, dim=1).T for v in z]


@pytest.fixture(scope="module")
def vectors():
    """Two views' vectors, float32 [16, 8]."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(16, 8, generator=generator)
    return first, first + 0.5 * torch.randn(16, 8, generator=generator)


@pytest.fixture(scope="module")
def lightlys(swav, vectors, tmp_path_factory):
    given, found = (tmp_path_factory.mktemp("lightly") / name for name in ("given.npz", "found.npz"))
    np.savez(given, first=vectors[0], second=vectors[1], first_scores=swav[2][0], second_scores=swav[2][1])
    subprocess.run([sys.executable, "-W", "ignore", lightly_losses.__file__, LIGHTLY, given, found], check=True)
    return np.load(found)


def test_nt_xent_and_its_gradient(vectors, lightlys):
    first, second = (v.clone().requires_grad_() for v in vectors)
    loss = nt_xent(first, second, torch.arange(16), 16, 0.1).mean()
    assert loss.item() == pytest.approx(float(lightlys["contrast"]), rel=1e-5)
    gradient = torch.stack(torch.autograd.grad(loss, [first, second])).numpy()
    np.testing.assert_allclose(gradient, lightlys["gradient"], rtol=1e-4, atol=1e-7)


def test_byols_distance_and_momentum(vectors, lightlys):
    assert float(distance(*vectors).mean()) == pytest.approx(2 + 2 * float(lightlys["cosine"]), rel=1e-5)
    np.testing.assert_allclose([rising(0.996, step / 10) for step in range(11)], lightlys["momentum"])


def test_swavs_assignments_and_loss(swav, lightlys):
    model, batches, scores = swav
    np.testing.assert_allclose(sinkhorn(scores[0], 0.05, 3).numpy(), lightlys["codes"], rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        assert float(losses(model, batches).loss.mean()) == pytest.approx(float(lightlys["swapped"][0]), rel=1e-5)
