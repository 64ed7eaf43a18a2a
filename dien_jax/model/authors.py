"""Conversion of TensorFlow variables, saved by the paper authors' program, to parameters.

Source: https://github.com/mouna99/dien (model.py, utils.py).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dien_jax.errors import UserError, suggestion

_PRELU = {
    "base_model": ("prelu1/prelu_prelu1", "prelu2/prelu_prelu2"),
    "pnn": ("prelu1/prelu_prelu1", "prelu2/prelu_prelu2"),
    "wide_deep": ("p1/prelu_p1", "p2/prelu_p2"),
}
_DICE = ("dice_1/alphadice_1", "dice_2/alphadice_2")


def _check(variables: object, name: str) -> None:
    """Refuse wrong arguments of :func:`from_authors`, such as a path."""
    from dien_jax.config.presets import FAMILY  # imported here: it reads files, models do not

    if not isinstance(variables, Mapping):
        expected = "variables must be arrays by name, read as help(from_authors) shows"
        raise UserError(f"{expected}, got {variables!r:.60}")
    if name not in FAMILY:
        near = suggestion(name, FAMILY)
        raise UserError(f"unknown model {name!r}{near} (models: {', '.join(FAMILY)})")


def from_authors(variables: Mapping[str, np.ndarray], name: str) -> dict:
    """Return the parameters of a :class:`ClickModel` from the variables of the authors' program.

    The model's schema has the item feature ``category`` and no user feature except the id; its
    configuration is ``member(name, PRESETS["authors"].model)`` of :mod:`dien_jax.config.presets`.
    TensorFlow, which this project does not need, can read ``variables``::

        reader = tf.train.load_checkpoint("dnn_best_model/ckpt_noshuffDIEN3")
        names = reader.get_variable_to_shape_map()
        params = from_authors({name: reader.get_tensor(name) for name in names}, "dien")

    >>> import numpy as np
    >>> from dien_jax.model import from_authors
    >>> embeddings = ["mid_embedding_var", "cat_embedding_var", "uid_embedding_var"]
    >>> dense = [f"f{layer}/{part}" for layer in (1, 2, 3) for part in ("kernel", "bias")]
    >>> others = ["bn1/gamma", "bn1/beta", "prelu1/prelu_prelu1", "prelu2/prelu_prelu2"]
    >>> variables = dict.fromkeys([*embeddings, *dense, *others], np.zeros((2, 2)))
    >>> sorted(from_authors(variables, "base_model"))
    ['item_embeddings', 'mlp', 'user_embeddings']

    Args:
      variables: arrays by variable name, without ``:0``; optimizer slots are ignored.
      name: a model of the paper's table, such as ``"dien"``, ``"din"`` or ``"augru"``.

    Raises:
      UserError: the model is unknown, or a variable is missing; the message names it.
    """

    def get(name: str) -> np.ndarray:
        if name not in variables:
            raise UserError(
                f"variable {name!r} is missing, found {', '.join(sorted(variables)) or 'none'}"
            )
        return np.asarray(variables[name], np.float32)

    def dense(name: str) -> dict:
        return {"kernel": get(f"{name}/kernel"), "bias": get(f"{name}/bias")}

    def norm(name: str) -> dict:
        return {"scale": get(f"{name}/gamma"), "bias": get(f"{name}/beta")}

    def recurrence(name: str, *, has_update: bool = True) -> dict:
        gates, candidate = get(f"{name}/gates/kernel"), get(f"{name}/candidate/kernel")
        hidden = candidate.shape[1]
        parts = [gates[:, :hidden], gates[:, hidden:], candidate]
        bias = get(f"{name}/gates/bias")
        biases = [bias[:hidden], bias[hidden:], get(f"{name}/candidate/bias")]
        if not has_update:
            del parts[1], biases[1]
        stacked = np.stack(parts, axis=1)
        depth = stacked.shape[0] - hidden
        return {"input": stacked[:depth], "recurrent": stacked[depth:], "bias": np.stack(biases)}

    def attention(ending: str) -> dict:
        return {
            "kernel": get(f"f1_att{ending}/kernel"),
            "bias": get(f"f1_att{ending}/bias"),
            "layer_1": dense(f"f2_att{ending}"),
            "score": dense(f"f3_att{ending}"),
        }

    _check(variables, name)
    first, second = _PRELU.get(name, _DICE)
    params: dict[str, Any] = {
        "item_embeddings": {"item": get("mid_embedding_var"), "category": get("cat_embedding_var")},
        "user_embeddings": {"user": get("uid_embedding_var")},
        "mlp": {
            "norm": norm("bn1"),
            "layer_0": dense("f1"),
            "activation_0": {"alpha": get(first)},
            "layer_1": dense("f2"),
            "activation_1": {"alpha": get(second)},
            "logit": dense("f3"),
        },
    }
    if name == "wide_deep":
        params["linear"] = dense("f_fm")
    elif name == "din":
        params["network"] = {"attention": attention("null")}
    elif name not in _PRELU:
        params["network"] = {
            "extractor": recurrence("gru1"),
            "attention": {
                "query": dense("f11_1"),
                "query_activation": {"alpha": get("prelu_")},
                **attention("1_1"),
            },
            "evolution": recurrence("gru2", has_update=name != "agru"),
        }
    if name == "dien":
        kernel, inputs = get("f1gru/kernel"), norm("bn1gru")
        hidden = get("gru1/candidate/kernel").shape[1]
        params["network"]["auxiliary"] = {
            "norm_state": {key: value[:hidden] for key, value in inputs.items()},
            "norm_behaviour": {key: value[hidden:] for key, value in inputs.items()},
            "network": {
                "state": {"kernel": kernel[:hidden], "bias": get("f1gru/bias")},
                "behaviour": {"kernel": kernel[hidden:]},
                "layer_1": dense("f2gru"),
                "score": dense("f3gru"),
            },
        }
    return params
