"""Weights of the parts of a score in lists, fitted on validation clicks: ``list_weights.json``.

    {"step": 568, "tower": 0.8, "rules": 0.0, "click_network": 0.1, "auxiliary_score": 20.5,
     "offset": 1.0, "fitted_on": {"split": "valid", "clicks": 4000, "shortlisted": 1380}}

A click model is trained on a click and a random negative, most of which are easy to tell apart. A
list has to tell apart the few best items, for which other parts of the model count more.

Dimensions: E clicks, N candidates of each, F parts of the score.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Annotated, Any

import jax
import msgspec
import numpy as np

from dien_jax.model.layers import CALIBRATION
from dien_jax.model.statistics import OF_VALUE
from dien_jax.runs.calibration import Fitted
from dien_jax.utils.json_values import Count

WEIGHTS_FILE = "list_weights.json"
LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e4
PARTS = {
    "tower": r"params/tower/(\w+_weights|linear|logit)/.*",
    "click_network": r"params/(mlp/logit|linear)/.*",
    "auxiliary_score": r"params/score_weight/.*",
}
"""Parts of a logit, and the parameters that each is a linear function of."""
WEIGHTS = ("tower", "rules", "click_network", "auxiliary_score", "offset")
RULES = 1 + OF_VALUE.index("rules")
"""Place of the input "item rules" among the tower's inputs."""
Weight = Annotated[float, msgspec.Meta(ge=0, le=MOST_WEIGHT)]


@dataclass(frozen=True)
class ListWeights(Fitted):
    """The content of ``list_weights.json``, fitted on the checkpoint of ``step``.

    ``offset`` is the weight of :func:`dien_jax.runs.calibration.list_offsets`, ``rules`` is added
    to the tower's weight of its input "item rules", the others are those of ``PARTS``.
    """

    FILE = WEIGHTS_FILE
    step: Count
    tower: Weight = 1.0
    rules: Weight = 0.0
    click_network: Weight = 1.0
    auxiliary_score: Weight = 1.0
    offset: Annotated[float, msgspec.Meta(gt=0, le=MOST_WEIGHT)] = 1.0
    fitted_on: dict[str, Any] = field(default_factory=dict)

    def apply(self, variables: Any) -> Any:
        """Return variables of ranking with weighted logits, which are not calibrated.

        ``variables`` are those of the Flax model, or arrays by names such as
        ``params/mlp/logit/kernel``. Other arrays are shared.
        """

        def weighted(path: Any, leaf: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if name.startswith(f"{CALIBRATION}/"):
                return np.float32(name.endswith("slope"))
            for part, pattern in PARTS.items():
                if re.fullmatch(pattern, name):
                    leaf = np.asarray(leaf) * np.asarray(getattr(self, part), leaf.dtype)
            if name == "params/tower/linear/kernel":
                leaf[RULES] += self.rules
            return leaf

        return jax.tree_util.tree_map_with_path(weighted, variables)

    def __str__(self) -> str:
        """Return the weights for people."""
        shown = (f"{name.replace('_', ' ')} {getattr(self, name):.3f}" for name in WEIGHTS)
        return f"weights in lists: {', '.join(shown)}"


def fit_list_weights(
    parts: Mapping[str, Sequence[np.ndarray]], targets: Sequence[int]
) -> dict[str, float]:
    """Return weights of the parts of a score: those with the largest likelihood of clicks.

    The probability of a candidate is the softmax, over the candidates, of the weighted sum of its
    parts (conditional logit: McFadden, 1974). A part that is equal for all candidates of every
    click is left out. Weights are positive.

    >>> parts = {"score": [np.log([0.2, 0.8])] * 10}  # of two candidates of ten clicks
    >>> weights = fit_list_weights(parts, [0] * 2 + [1] * 8)
    >>> round(weights["score"], 3)
    1.0

    Args:
      parts: E arrays ``[N]`` by name of the part, where N may differ.
      targets: E places of clicked candidates.
    """
    from scipy.optimize import minimize  # 0.2 s

    sizes = [len(of_click) for of_click in next(iter(parts.values()))]
    starts = np.cumsum([0, *sizes[:-1]])
    x = np.stack([np.concatenate(values) for values in parts.values()], 1).astype(np.float64)
    x -= np.repeat(np.add.reduceat(x, starts) / np.array(sizes)[:, None], sizes, 0)
    scale = x.std(0)
    varies = scale > 0
    x = x[:, varies] / scale[varies]
    clicked = x[starts + np.asarray(targets)]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = x @ weights
        scores -= np.repeat(np.maximum.reduceat(scores, starts), sizes)
        terms = np.exp(scores)
        sums = np.add.reduceat(terms, starts)
        mean = np.add.reduceat(terms[:, None] * x, starts) / sums[:, None]
        likelihood = scores[starts + np.asarray(targets)] - np.log(sums)
        return -float(likelihood.mean()), (mean - clicked).mean(0)

    bounds = [(LEAST_WEIGHT * one, MOST_WEIGHT * one) for one in scale[varies]]
    found = minimize(loss, scale[varies], jac=True, method="L-BFGS-B", bounds=bounds)
    weights = (found.x / scale[varies]).tolist()
    return dict(zip(compress(parts, varies), weights, strict=True))
