import pytest
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from preprocessing.errors import RunError
from preprocessing.out_of_memory import killed_worker_told


@pytest.mark.parametrize("error", [OutOfMemoryError("killed"), WorkerCrashedError()])
def test_a_worker_without_memory_is_told_in_words(error):
    told = rf"a worker was killed while measuring.*fewer CPUs.*\({type(error).__name__}\)"
    with pytest.raises(RunError, match=told), killed_worker_told("measuring"):
        raise error


def test_other_errors_are_none_of_memory():
    with pytest.raises(KeyError), killed_worker_told("measuring"):
        raise KeyError("x")
