"""Tests on Spark itself, which needs Java, and tests of its absence."""

import os

import pytest

IS_THERE = os.environ.get("DIEN_JAX_SPARK") == "environment"
needs_spark = pytest.mark.skipif(not IS_THERE, reason="needs Spark and Java; .ci/spark runs it")
without_spark = pytest.mark.skipif(IS_THERE, reason="needs an environment without Spark")
