import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.offers import Offer, share, side_by_side
from pipeline.training.precision import ResourceSettings
from preprocessing.errors import RunError

HEAD, CPU, GPU = Offer("head", 0, 0, 1), Offer("cpu", 16, 0, 8), Offer("gpu", 8, 1, 4)


@pytest.mark.parametrize(
    ("fields", "found", "expected"),
    [
        ({}, [Offer("this", 2, 0, 1)], (2, False)),
        ({"workers": 2}, [Offer("this", 2, 0, 1)], (1, False)),
        ({"workers": 3}, [Offer("a", 8, 0, 1), Offer("b", 8, 0, 1)], (4, False)),  # 5 would fit once on each
        ({"workers": 1, "max_workers": 4}, [HEAD, CPU, GPU], (8, True)),
        ({"workers": 2}, [Offer("big", 32, 4, 1)], (16, True)),
        ({"workers": 2, "gpu": "no"}, [HEAD, CPU, GPU], (16, False)),
        ({"workers": 1, "max_workers": 9}, [HEAD, GPU], (8, True)),  # as many as fit, later
        ({"cpus_per_worker": 3}, [GPU], (3, True)),
    ],
)
def test_every_worker_gets_what_leaves_room_for_all(fields, found, expected):
    assert share(ResourceSettings(**fields), found) == expected


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"gpu": "yes"}, [HEAD, CPU]),
        ({"workers": 5, "gpu": "yes"}, [HEAD, CPU, GPU]),
        ({"cpus_per_worker": 20}, [CPU]),
        ({}, []),
    ],
)
def test_what_never_fits_is_refused_with_what_would(fields, found):
    with pytest.raises(RunError, match=r"will never fit.*Lower resources\.workers"):
        share(ResourceSettings(**fields), found)


def test_nothing_is_refused_where_machines_may_come_that_nobody_told_of():
    assert share(ResourceSettings(workers=2), [HEAD], may_grow=True) == (1, False)
    assert share(ResourceSettings(gpu="yes", cpus_per_worker=6), [HEAD], may_grow=True) == (6, True)
    assert share(ResourceSettings(workers=2), [CPU], may_grow=True) == (16, False)


@pytest.mark.parametrize(
    ("fields", "found", "groups"),
    [
        ({}, [HEAD, CPU, GPU], 4),  # a GPU machine each, whether it has been started or not
        ({"gpu": "no", "cpus_per_worker": 8}, [HEAD, CPU, GPU], 20),
        ({"workers": 2}, [HEAD, CPU, GPU], 2),
        ({"workers": 3}, [HEAD, CPU, GPU], 1),
        ({"cpus_per_worker": 1}, [Offer("this", 2, 0, 1)], 2),
        ({"workers": 2, "cpus_per_worker": 3}, [Offer("a", 5, 0, 1), Offer("b", 5, 0, 1)], 1),  # 10 cores, yet not 3
        ({}, [HEAD], 1),  # machines may come that nobody told of
    ],
)
def test_groups_side_by_side_count_machines_that_may_still_start(fields, found, groups):
    resources = ResourceSettings(**fields)
    assert side_by_side(resources, found, *share(resources, found, may_grow=True)) == groups


def test_the_message_names_the_machines():
    with pytest.raises(
        RunError, match=r"5 training worker.* 8 x cpu with 16 cores; 4 x gpu with 8 cores and 1 GPU.*room for 4"
    ):
        share(ResourceSettings(workers=5, gpu="yes"), [CPU, GPU])


@given(
    st.lists(st.tuples(st.integers(0, 16), st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=4),
    st.integers(1, 6),
)
def test_the_share_fits_and_one_core_more_would_not(machines, workers):
    found = [Offer(str(i), *numbers) for i, numbers in enumerate(machines)]
    try:
        cpus, gpu = share(ResourceSettings(workers=workers), found)
    except RunError:
        cpus, gpu = 0, any(offer.gpus for offer in found)
    else:
        assert placed(found, cpus, gpu) >= workers
    assert placed(found, cpus + 1, gpu) < workers


def placed(found, cpus, gpu):
    """Workers put on machines one by one."""
    count = 0
    for offer in found:
        for _machine in range(offer.machines):
            cores, cards = offer.cpus, offer.gpus
            while cores >= cpus and (not gpu or cards >= 1):
                cores, cards, count = cores - cpus, cards - 1, count + 1
    return count
