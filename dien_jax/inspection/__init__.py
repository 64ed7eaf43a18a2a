"""Inspection of trained models: attention and gates, permutation importance and reports.

The model gets no hooks for this package, which reads what modules return. Flags and printing stay
in the commands ``explain`` and ``report``.
"""

from dien_jax.inspection.example_view import draw_example
from dien_jax.inspection.examples import Example, Inspector
from dien_jax.inspection.importance import Importance, permutation_importance
from dien_jax.inspection.report import write_report

__all__ = [
    "Example",
    "Importance",
    "Inspector",
    "draw_example",
    "permutation_importance",
    "write_report",
]
