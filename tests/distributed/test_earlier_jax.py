"""Several processes on CPUs need a later JAX than the first that the project runs on."""

from pathlib import Path

import jax
import pytest
from support.several_processes import distributed, flags, free_port, run_together

from dien_jax.training.hosts import MISTAKE


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
