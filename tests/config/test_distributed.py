"""Settings of the processes of a run are checked where they are made."""

import pytest

from dien_jax.config import DistributedConfig
from dien_jax.errors import UserError

pytestmark = pytest.mark.fast

HERE = "10.0.0.1:5000"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coordinator": HERE}, "distributed.processes and distributed.process are missing"),
        ({"processes": 2, "process": 0}, "distributed.coordinator is missing"),
        ({"coordinator": HERE, "processes": 2}, "distributed.process is missing"),
        ({"coordinator": "host", "processes": 2, "process": 0}, "must be HOST:PORT"),
        ({"coordinator": "host:", "processes": 2, "process": 0}, "got 'host:'"),
        ({"coordinator": "host:0", "processes": 2, "process": 0}, "a port of 1 to 65535"),
        ({"coordinator": "host:70000", "processes": 2, "process": 0}, "a port of 1 to 65535"),
        ({"coordinator": "::1:5000", "processes": 2, "process": 0}, "must be HOST:PORT"),
        ({"coordinator": "http://host:50", "processes": 2, "process": 0}, "must be HOST:PORT"),
        ({"coordinator": HERE, "processes": 2, "process": 2}, "must be 0 to 1"),
        ({"coordinator": HERE, "processes": 2, "process": -1}, "must be 0 to 1"),
        ({"coordinator": HERE, "processes": 0, "process": 0}, "must be at least 1, got 0"),
        ({"auto": True, "processes": 2}, "distributed.auto finds distributed.processes by itself"),
        ({"auto": True, "timeout": 0}, "distributed.timeout must be at least 1 and at most 86,400"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        DistributedConfig(**values)


def test_one_process_is_not_distributed() -> None:
    assert not DistributedConfig().is_asked
    assert not DistributedConfig(HERE, 1, 0).is_asked
    assert DistributedConfig("[fe80::1]:5000", 2, 1).is_asked
    assert DistributedConfig(auto=True).is_asked
