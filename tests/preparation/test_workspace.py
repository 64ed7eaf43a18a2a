"""The default engine."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dien_jax.preparation.reading.engines import open_workspace

pytestmark = pytest.mark.fast


def test_the_share_of_a_query_is_known_while_it_runs(tmp_path: Path) -> None:
    values = np.arange(1 << 20)
    with open_workspace(tmp_path / "data", "1GB") as workspace:
        table = workspace.store("table", pa.table({"key": values % 977, "value": values}))
        assert workspace.share() is None
        shares = [workspace.share() for _ in workspace.batches(table.order_by("key", "value"))]
        assert shares[0] is not None
        assert 0 < shares[0] < 1
    assert workspace.share() is None
