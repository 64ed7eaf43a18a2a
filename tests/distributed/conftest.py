"""A run by one process and the same one by two."""

from pathlib import Path

import pytest
from support.several_processes import Whole, flags, run_together, run_two


@pytest.fixture(scope="module")
def whole(large_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Of data whose tables are divided over devices."""
    folder = tmp_path_factory.mktemp("runs")
    by_one, by_two = folder / "one", folder / "two"
    [alone] = run_together(flags(large_data, by_one), devices=2)
    assert alone.status == 0, alone.said
    ended = run_two(flags(large_data, by_two))
    assert [each.status for each in ended] == [0, 0], ended
    return Whole(by_one, by_two, ended)
