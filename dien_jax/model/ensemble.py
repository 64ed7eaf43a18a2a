"""Ensembles: networks of one configuration with parameters of their own, whose mean logit scores.

Parameters, running statistics and slots of the optimizer are stacked: the N networks are the first
axis of each array, ``[N, V, E]`` for an embedding table. All networks share the logistic
regression, the statistics network, the calibration and the optimizer's counts. An ensemble of one
network is that network: its arrays have no such axis, and functions are called as they are.

Source: Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017 (arXiv:1612.01474).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dien_jax.model.logit_map import CALIBRATION

FITTED = {"logistic_regression", "statistics_network"}
"""Names of modules that are fitted before training; no gradient changes them."""
SHARED = {*FITTED, CALIBRATION}
"""Names of modules and collections whose arrays all networks share."""


def network_axes(tree: Any) -> Any:
    """Return the axis of the networks of each array, as ``jax.vmap`` takes it; None if shared."""

    def axis(path: tuple, leaf: Any) -> int | None:
        names = {getattr(key, "key", None) for key in path[:-1]}  # a feature may have such a name
        return 0 if leaf.ndim and not names & SHARED else None

    return jax.tree_util.tree_map_with_path(axis, tree)


def each_network(ensemble: int, function: Callable[..., Any], own: int = 0) -> Callable[..., Any]:
    """Return ``function(variables, *arguments)`` for every network of an ensemble.

    The results of the networks are stacked. So are the first ``own`` arguments; the others are the
    same for all networks.
    """
    if ensemble == 1:
        return function

    def call(variables: Any, *arguments: Any) -> Any:
        axes = (0 if place < own else None for place in range(len(arguments)))
        return jax.vmap(function, (network_axes(variables), *axes))(variables, *arguments)

    return call


def mean_of_networks(
    ensemble: int, function: Callable[..., Any], own: int = 0
) -> Callable[..., Any]:
    """Return the mean of the results of :func:`each_network`."""
    if ensemble == 1:
        return function
    call = each_network(ensemble, function, own)
    return lambda *arguments: jax.tree.map(lambda leaf: leaf.mean(0), call(*arguments))


def mean_one_by_one(ensemble: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return :func:`mean_of_networks` without ``jax.vmap``, which not every converter knows."""

    def call(variables: Any, *arguments: Any) -> Any:
        networks = split_networks(ensemble, variables)
        results = [function(network, *arguments) for network in networks]
        return jax.tree.map(lambda *leaves: sum(leaves) / ensemble, *results)

    return function if ensemble == 1 else call


def without_copies(axes: Any, tree: Any) -> Any:
    """Return a stacked tree with shared arrays, whose :func:`network_axes` is None, only once."""
    return jax.tree.map(
        lambda axis, leaf: leaf[0] if axis is None else leaf, axes, tree, is_leaf=_is_none
    )


def split_networks(ensemble: int, tree: Any) -> list[Any]:
    """Return the tree of each network of an ensemble."""
    if ensemble == 1:
        return [tree]
    axes = network_axes(tree)

    def network(number: int) -> Any:
        return jax.tree.map(
            lambda axis, leaf: leaf if axis is None else leaf[number], axes, tree, is_leaf=_is_none
        )

    return [network(number) for number in range(ensemble)]


def join_networks(networks: Sequence[Any]) -> Any:
    """Return the stacked tree of parameters, or slots, of networks on the host."""
    if len(networks) == 1:
        return networks[0]
    return jax.tree.map(
        lambda axis, *leaves: leaves[0] if axis is None else np.stack(leaves),
        network_axes(networks[0]),
        *networks,
        is_leaf=_is_none,
    )


def _is_none(value: Any) -> bool:
    return value is None
