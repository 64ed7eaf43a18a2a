"""The memory limit of a preparation: how it is divided."""

import pytest

from dien_jax import UserError
from dien_jax.preparation.memory import PROGRAM, divide, parse_size, reading_limit
from dien_jax.preparation.reading.duckdb_engine import duckdb_workspace

pytestmark = pytest.mark.fast

SIZES = {"users": 10**6, "items": 10**5, "events": 10**7, "longest": 500, "examples": 2}


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("1.5 kib", 1536), ("20mb", 20 * 10**6), ("1TB", 10**12)]
)
def test_sizes_have_units_of_1000_or_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_parts_get_larger_with_the_memory_and_smaller_with_the_log() -> None:
    less, more = (divide(text, **SIZES)[1] for text in ("3GB", "4GB"))
    assert 10**6 < less < more
    for change in ({"users": 5 * 10**6}, {"examples": 5}):
        assert divide("4GB", **SIZES | change)[1] < more


def test_the_database_has_what_the_rest_leaves(tmp_path) -> None:
    limit = parse_size("4GB")
    assert PROGRAM < limit - reading_limit("4GB") < limit - divide("4GB", **SIZES)[0]
    with duckdb_workspace(tmp_path / "data", tmp_path, "4GB") as workspace:
        workspace.limit(2**30)
        found = workspace._connection.execute("SELECT current_setting('memory_limit')").fetchone()
        assert found == ("1.0 GiB",)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"users": 10**9}, "1,000,000,000 users, .* take about 10[0-9],[0-9]{3}MB"),
        ({"longest": 10**7}, "of 10,000,000 events at most"),
        ({"examples": 1001}, "1,001 examples of an event"),
    ],
)
def test_a_log_that_does_not_fit_is_refused_with_an_estimate(change, match) -> None:
    with pytest.raises(UserError, match=f"--memory 2.5GB is too little: .*{match}"):
        divide("2.5GB", **SIZES | change)
