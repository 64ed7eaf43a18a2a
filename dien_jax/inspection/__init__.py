"""Inspection of trained models, without hooks in them: attention, gates, and reports."""

from dien_jax.inspection.example_view import draw_example
from dien_jax.inspection.examples import Example, Inspector
from dien_jax.inspection.report import write_report

__all__ = ["Example", "Inspector", "draw_example", "write_report"]
