"""Inspection of trained models: attention and gates, and reports.

The model gets no hooks for this package, which reads what modules return. Flags and printing stay
in the commands ``explain`` and ``report``.
"""

from dien_jax.inspection.example_view import draw_example
from dien_jax.inspection.examples import Example, Inspector
from dien_jax.inspection.report import write_report

__all__ = ["Example", "Inspector", "draw_example", "write_report"]
