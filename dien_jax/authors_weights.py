"""Parameters of the DIEN authors' TensorFlow program, under their variable names, as ours.

Their program stacks [x; h] along the input axis of a recurrent kernel and [reset | update]
along its columns, and normalises concatenated inputs. Here each has its own place. Tables keep
their row order; AGRU's unused update columns are dropped.
"""

from collections.abc import Mapping

import numpy as np

from dien_jax.errors import UserError


def from_authors(variables: Mapping[str, np.ndarray], *, evolution: str) -> dict:
    """The parameter tree of an ``InterestModel`` in the authors' form.

    Args:
      variables: arrays by variable name, without ``:0``; optimiser slots may be among them.
      evolution: ``"aigru"``, ``"agru"`` or ``"augru"``, as in ``ModelConfig``. The auxiliary
        network is converted where its variables are there.

    Returns:
      Nested dicts of float32 arrays, for ``model.apply({"params": ...})``. The model's schema
      has the item feature ``category`` and no feature of users but their id; its configuration
      is that of the preset ``authors``, the evolution and auxiliary loss aside.

    Raises:
      UserError: where a variable is missing; it is named.
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

    hidden = get("gru1/candidate/kernel").shape[1]
    params = {
        "item_embeddings": {"item": get("mid_embedding_var"), "category": get("cat_embedding_var")},
        "user_embeddings": {"user": get("uid_embedding_var")},
        "extractor": recurrence("gru1"),
        "attention": {
            "query": dense("f11_1"),
            "query_activation": {"alpha": get("prelu_")},
            "kernel": get("f1_att1_1/kernel"),
            "bias": get("f1_att1_1/bias"),
            "layer_1": dense("f2_att1_1"),
            "score": dense("f3_att1_1"),
        },
        "evolution": recurrence("gru2", has_update=evolution != "agru"),
        "mlp": {
            "norm": norm("bn1"),
            "layer_0": dense("f1"),
            "activation_0": {"alpha": get("dice_1/alphadice_1")},
            "layer_1": dense("f2"),
            "activation_1": {"alpha": get("dice_2/alphadice_2")},
            "logit": dense("f3"),
        },
    }
    if "f1gru/kernel" in variables:
        first, inputs = get("f1gru/kernel"), norm("bn1gru")
        params["auxiliary"] = {
            "norm_state": {key: value[:hidden] for key, value in inputs.items()},
            "norm_behaviour": {key: value[hidden:] for key, value in inputs.items()},
            "state": {"kernel": first[:hidden], "bias": get("f1gru/bias")},
            "behaviour": {"kernel": first[hidden:]},
            "layer_1": dense("f2gru"),
            "score": dense("f3gru"),
        }
    return params
