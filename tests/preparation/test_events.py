"""From a log to events: what a source must read."""

from pathlib import Path

import ibis
import pytest

from dien_jax.preparation.options import Features, LogColumn, LogOptions
from dien_jax.preparation.pipeline.events import load_events
from dien_jax.preparation.reading.engines import open_workspace
from dien_jax.preparation.reading.log import Log
from dien_jax.utils.text_files import BadLines

pytestmark = pytest.mark.fast

CATEGORY = LogColumn("category", "--from")


def test_a_feature_that_is_read_by_its_plain_name_is_refused_with_the_right_one(
    tmp_path: Path,
) -> None:
    columns = dict.fromkeys(("user", "item", "timestamp", "line", "category"), "string")
    log = Log(Path("log"), ibis.table(columns, name="rows"), BadLines())
    expected = r"needs the column 'feature category'; this one has user, item"
    with (
        open_workspace(LogOptions(out=tmp_path / "data", split="by-user")) as workspace,
        pytest.raises(ValueError, match=expected),
    ):
        load_events(workspace, log, Features(item=(CATEGORY,)), max_bad_share=0.1)
