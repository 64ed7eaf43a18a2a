"""The networks of the paper, assembled from the parts that a configuration names."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from dien_jax.config.settings import Config, ModelConfig
from dien_jax.data.schema import Schema
from dien_jax.errors import UserError, require_choice
from dien_jax.model.auxiliary import BinaryAuxiliaryLoss, SoftmaxAuxiliaryLoss
from dien_jax.model.dien import DIEN
from dien_jax.model.interest import (
    AGRU,
    AIGRU,
    AUGRU,
    GRU,
    BilinearAttention,
    MLPAttention,
    Recurrence,
)
from dien_jax.model.layers import Axis


def make_network(config: ModelConfig, axis: Axis = None) -> DIEN:
    """Return the network of a configuration, for rows on the mesh axis ``axis``.

    >>> from dien_jax import preset
    >>> from dien_jax.model import make_network
    >>> din = make_network(preset("din").model)
    >>> din.extractor is None, type(din.attention).__name__
    (True, 'MLPAttention')

    Raises:
      UserError: an attention, evolution or auxiliary loss is in no table.
    """
    check_modules(config)
    attends, evolves = config.evolution != "none", config.evolution in EVOLUTIONS
    return DIEN(
        extractor=make_recurrence(GRU, config) if config.extractor == "gru" else None,
        attention=ATTENTIONS[config.attention](config) if attends else None,
        evolution=EVOLUTIONS[config.evolution](config) if evolves else None,
        auxiliary=AUXILIARIES[config.auxiliary](config, axis) if config.auxiliary_weight else None,
    )


def check_modules(config: ModelConfig) -> None:
    """Refuse an unknown name of a part, with a UserError that suggests the nearest name.

    The names are those of :data:`ATTENTIONS`, :data:`EVOLUTIONS` and :data:`AUXILIARIES`, to which
    users can add modules.
    """
    for setting, table, choices in (
        ("attention", "ATTENTIONS", ATTENTIONS),
        ("evolution", "EVOLUTIONS", ("none", "attention", *EVOLUTIONS)),
        ("auxiliary", "AUXILIARIES", AUXILIARIES),
    ):
        try:
            require_choice(f"model.{setting}", getattr(config, setting), choices)
        except UserError as error:
            yours = f"or a name that your program adds to dien_jax.model.{table} before"
            raise UserError(f"{error} ({yours})") from None


def cached_by_modules(make: Callable[..., Any]) -> Callable[..., Any]:
    """Cache the results of a function of configuration, schema and other keys.

    Only those of the package's own modules are cached. A module that a user has added is traced
    again, because its code may have changed. ``cache_clear`` empties the cache.
    """

    @functools.lru_cache(maxsize=8)
    def cached(network: DIEN, *arguments: Any) -> Any:
        del network  # part of the key: a table of modules may have changed
        return make(*arguments)

    @functools.wraps(make)
    def wrapper(config: Config, schema: Schema, *more: Any) -> Any:
        try:
            network = make_network(config.model)
        except NotImplementedError:  # `make` raises it where its callers expect it
            return make(config, schema, *more)
        parts = (network.extractor, network.attention, network.evolution, network.auxiliary)
        ours = all(part is None or type(part).__module__.startswith("dien_jax.") for part in parts)
        return cached(network, config, schema, *more) if ours else make(config, schema, *more)

    wrapper.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
    return wrapper


def make_recurrence(cell: type[Recurrence], config: ModelConfig) -> nn.Module:
    """Return a recurrence of ``dien_kernels`` with the options of the configuration."""
    return cell(
        config.hidden_size, config.gates, config.implementation, config.recurrence_precision
    )


def _mlp_attention(config: ModelConfig) -> nn.Module:
    # Without an extractor, states are embeddings as wide as the candidate: no projection is needed.
    projects_query = config.extractor == "gru"
    implementation = config.network_implementation
    return MLPAttention(projects_query=projects_query, implementation=implementation)


def _bilinear_attention(config: ModelConfig) -> nn.Module:
    if config.network_implementation == "native":
        raise NotImplementedError(
            "there is no native kernel of bilinear attention; 'auto' runs all others"
        )
    return BilinearAttention()


ATTENTIONS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "mlp": _mlp_attention,
    "bilinear": _bilinear_attention,
}
"""The attention of each ``config.attention``. Add your own under a new name: a module that is
called like :class:`MLPAttention`. docs/tutorial.md adds a recurrence in the same way."""
EVOLUTIONS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "gru_attention": functools.partial(make_recurrence, GRU),
    "aigru": functools.partial(make_recurrence, AIGRU),
    "agru": functools.partial(make_recurrence, AGRU),
    "augru": functools.partial(make_recurrence, AUGRU),
}
"""The recurrence of each ``config.evolution`` that has one. Add your own cell under a new name: a
module that is called like :class:`AUGRU`. docs/tutorial.md has an example."""
AUXILIARIES: dict[str, Callable[[ModelConfig, Axis], Callable[..., jax.Array]]] = {
    "binary": lambda config, axis: BinaryAuxiliaryLoss(
        config.follow_authors, config.network_implementation, axis
    ),
    "softmax": lambda config, axis: SoftmaxAuxiliaryLoss(axis),
}
"""The auxiliary loss of each ``config.auxiliary``, for rows on a mesh axis. Add your own under a
new name: a module or a function that is called like :class:`BinaryAuxiliaryLoss`."""
