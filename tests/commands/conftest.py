"""The tiny data set, and compiled programs that the tests of this folder share."""

from pathlib import Path

import pytest
from support import tiny_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_data(tmp_path_factory.mktemp("data") / "tiny")
