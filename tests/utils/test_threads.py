"""Work that threads share keeps its order, and its bounds."""

import itertools
import threading

import pytest

from dien_jax.utils import threads as module
from dien_jax.utils.threads import map_in_order, thread_count


def test_threads_are_those_of_matrix_products_or_the_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pools = [{"user_api": "blas", "num_threads": 3}, {"user_api": "openmp", "num_threads": 9}]
    monkeypatch.setattr(module, "threadpool_info", lambda: pools)
    assert thread_count() == 3
    pools.clear()
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1, 4, 5}, raising=False)
    assert thread_count() == 4
    monkeypatch.delattr(module.os, "sched_getaffinity")
    monkeypatch.setattr(module.os, "cpu_count", lambda: 6)
    assert thread_count() == 6


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_have_the_order_of_the_values(threads: int) -> None:
    assert list(map_in_order(str, range(20), threads)) == [str(n) for n in range(20)]


@pytest.mark.parametrize("threads", [2, 5])
def test_values_are_taken_as_results_are(threads: int) -> None:
    taken = itertools.count()
    results = map_in_order(lambda _: None, taken, threads)
    for used in range(1, 20):
        next(results)
        assert next(taken) - 2 * used < threads + 1  # this asks for one more each time
    results.close()


def test_a_large_value_is_worked_at_alone() -> None:
    lock, others, at_work = threading.Lock(), {}, set()

    def work(value: int) -> None:
        with lock:
            at_work.add(value)
            for other in at_work:
                others.setdefault(other, set()).update(at_work - {other})
        barrier_of_small_ones(value)
        with lock:
            at_work.discard(value)

    pairs = {2: threading.Barrier(2), 3: threading.Barrier(2)}
    partner = {5: 2, 6: 2, 8: 3, 9: 3}

    def barrier_of_small_ones(value: int) -> None:
        if value in partner:  # two small values in a row are worked at together
            pairs[partner[value]].wait(timeout=20)

    list(map_in_order(work, [1, 70, 5, 6, 71, 8, 9, 72], 2, is_large=lambda n: n >= 70))
    assert {value: found for value, found in others.items() if value >= 70 and found} == {}
    assert others[5] == {6}
    assert others[8] == {9}


@pytest.mark.parametrize("threads", [1, 3])
def test_the_error_of_a_value_comes_at_its_place(threads: int) -> None:
    results = map_in_order(lambda n: 1 // (n - 2), itertools.count(), threads)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
