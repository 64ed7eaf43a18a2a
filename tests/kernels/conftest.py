"""Operands of networks, and a process that knows no outcome of a check."""

import pytest
from dien_kernels import agreement, choice
from dien_kernels.native import library
from support.networks import attention_operands, auxiliary_operands


@pytest.fixture
def few():
    return attention_operands(5, 7, 6, (9, 5))


@pytest.fixture
def auxiliary():
    return auxiliary_operands(5, 7, 2, 4, 6, (9, 5))


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No outcome is known, and auto may take the kernels; they are compiled before."""
    library.instruction_set()
    monkeypatch.setenv("DIEN_KERNELS_CACHE", str(tmp_path))
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "1")
    choice._log.cache_clear()
    choice._warn.cache_clear()
    caches = agreement.outcome.cache_clear, agreement.network_outcome.cache_clear
    for clear in caches:
        clear()
    yield tmp_path
    for clear in caches:
        clear()
