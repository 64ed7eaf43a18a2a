"""Two processes over the loopback interface are one with two devices."""

import json
from pathlib import Path

import jax
import pytest
from support.several_processes import (
    NEEDS_NEWER_JAX,
    Whole,
    assert_same,
    distributed,
    flags,
    free_port,
    lines_of,
    run_together,
)

from dien_jax.training.hosts import MISTAKE


@NEEDS_NEWER_JAX
def test_two_processes_are_one_with_two_devices(whole: Whole) -> None:
    """A sum of two numbers does not depend on their order, so nothing is rounded otherwise."""
    assert_same(whole.by_two, whole.by_one)
    names = [sorted(path.name for path in run.iterdir()) for run in (whole.by_one, whole.by_two)]
    assert names[0] == names[1]
    configs = [
        json.loads((run / "config.json").read_text()) for run in (whole.by_one, whole.by_two)
    ]
    assert configs[1]["versions"].pop("processes") == "2"
    assert configs[0] == configs[1]


@NEEDS_NEWER_JAX
def test_only_process_0_speaks(whole: Whole) -> None:
    first, second = whole.ended
    assert "8 examples of a batch on each of 2 devices; rows of item, category, user" in first.said
    assert "validation" in first.output
    assert lines_of(second.output) == []
    assert lines_of(second.said) == []


@pytest.mark.skipif(jax.__version_info__ >= (0, 12), reason="CPUs of several processes work here")
def test_earlier_jax_refuses_several_processes_on_cpus(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    given = [*flags(data, tmp_path / "run"), *distributed(0, free_port())]
    [ended] = run_together(given)
    assert ended.status == MISTAKE
    assert "several processes on CPUs need JAX 0.12, found 0." in ended.said
    assert "Traceback" not in ended.said
    assert not (tmp_path / "run").exists()
