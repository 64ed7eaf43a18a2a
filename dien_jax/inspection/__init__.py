"""Inspection of trained models, which get no hooks for it: attention and gates, and reports."""

from dien_jax.inspection.example_view import draw_example
from dien_jax.inspection.examples import Example, Inspector
from dien_jax.inspection.report import write_report

__all__ = ["Example", "Inspector", "draw_example", "write_report"]
