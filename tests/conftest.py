"""Fixtures shared by all tests: one Ray cluster for the session, and the real scans where they are present."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.s3_server import Request
    from tests.tiny import Tiny

# two threads that wait for each other are many times slower than one where other work shares the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a busy machine is no mistake in the code
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_ROOT = Path(__file__).resolve().parent.parent
_RAY = "ray"
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listeners on 127.0.0.1 only
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # the controller otherwise polls every 2 s
}


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several test processes (`-n 2`) one runs all files that need Ray, so that there is one cluster at a time."""
    from xdist.scheduler import LoadScopeScheduling

    class OneCluster(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    return OneCluster(config, log)


@cache
def _scope(nodeid: str) -> str:
    """A test's file, or one name for all files that name a fixture with Ray in it."""
    file = nodeid.partition("::")[0]
    words = (_ROOT / file).read_text()
    return _RAY if "ray_session" in words or "tiny" in words else file


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray cluster (2 CPUs, no dashboard) for every test that needs one."""
    os.environ.update(_QUIET)
    # workers import functions that are defined in test modules
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), str(_ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=400 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


def _data(folder: str) -> Path:
    base = Path(os.environ.get("MPS_AMS_DATA", _ROOT.parent / "shared" / "data"))
    if not (base / folder).is_dir():
        pytest.skip(f"real scans not found: {base / folder} (set MPS_AMS_DATA)")
    return base / folder


@pytest.fixture(scope="session")
def busi_root() -> Path:
    """Root of the real BUSI images."""
    return _data("busi/Dataset_BUSI_with_GT")


@pytest.fixture(scope="session")
def busi_original_root() -> Path:
    """Eight BUSI cases as published: original sizes, 1-bit, RGB and RGBA masks."""
    return _data("busi_original_size")


@pytest.fixture(scope="session")
def petct_root() -> Path:
    """FDG-PET (SUV), CT and tumour masks of soft-tissue sarcomas as NIfTI, under HECKTOR's file names."""
    return _data("petct_hecktor2022_layout")


@pytest.fixture(scope="session")
def dicom_root() -> Path:
    """CT and PET of patient STS-003 of `petct_root` as DICOM series, with RTSTRUCT."""
    return _data("dicom_STS_003")


@pytest.fixture(scope="session")
def brats_root() -> Path:
    """Two BraTS subjects: four MRI modalities and the label map of each."""
    return _data("brats2018_layout/MICCAI_BraTS_2018_Data_Training")


@pytest.fixture(scope="session")
def tiny(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny preprocessed data set, shared by the tests that train; not to be changed."""
    from tests.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def requests() -> Iterator[list[Request]]:
    """What an S3 server on loopback is asked, from the newest test's beginning on."""
    from tests.s3_server import serving

    with serving() as seen:
        yield seen


@pytest.fixture
def bucket(requests: list[Request], request: pytest.FixtureRequest) -> str:
    """URI of a bucket of the test's own."""
    from tests.s3_server import make_bucket

    uri = make_bucket(request.node.name)
    requests.clear()
    return uri
