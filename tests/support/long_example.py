"""An example without a model: a history of any length, for tests of how one is shown."""

import numpy as np

from dien_jax.inspection.examples import Behaviour, Example


def long_example(length: int, text: str = "an-item-of-a-very-long-name") -> Example:
    """``length`` behaviours, the latest of which have most attention, beside a candidate."""
    items = [
        Behaviour(f"{text}-{place:03}", f"category {place % 7}", place % 7 == 3)
        for place in range(length)
    ]
    attention = np.linspace(0, 1, length) ** 4
    attention = attention / max(attention.sum(), 1e-9)
    gate = np.full(length, 0.5)
    return Example(
        split="valid",
        number=7,
        user="u" * 90,
        candidate=Behaviour("$the$ candidate", "category 3", True),
        label=1,
        probability=0.25,
        by_counts=0.2,
        behaviours=tuple(items),
        older=12,
        measures={"attention": attention, "update_gate": gate, "update": attention / 2},
    )
