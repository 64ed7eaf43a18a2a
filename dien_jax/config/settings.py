"""Settings of a model and its training: frozen dataclasses that are checked at construction.

``config.json`` of a run folder holds a ``Config``. The docstrings below the fields are the texts of
``python -m dien_jax.train --help``.
"""

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from dien_kernels import Form, Implementation, NetworkImplementation, Precision

from dien_jax.errors import UserError, suggestion

LAYER_SIZES = tuple[int, ...]
Evolution = Literal["none", "attention", "gru_attention", "aigru", "agru", "augru"]
Attention = Literal["mlp", "bilinear"]

LARGEST_NUMBER = 3.4e38
"""Largest value of a setting that is not an integer: about the largest of float32."""
LARGEST_INTEGER = 2**31 - 1
"""Largest value of an integer setting, and of the steps of a run."""

MOST_LAYERS = 100
"""Layers of a network; compilation takes longer with each."""

ADDED_CHOICES: dict[str, Collection[str]] = {}
"""Further names for ``evolution`` and ``attention``: the tables of :mod:`dien_jax.model`, to which
users add modules of their own."""


def _are_layers(sizes: LAYER_SIZES) -> bool:
    return 1 <= len(sizes) <= MOST_LAYERS and min(sizes) >= 1


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise UserError(f"{name} must be {expected}, got {value!r}")


def _check(
    settings: object, group: str, names: str, holds: Callable[[Any], object], expected: str
) -> None:
    for name in names.split():
        value = getattr(settings, name)
        _require(bool(holds(value)), f"{group}.{name}", expected, value)


def _check_numbers(settings: object, group: str) -> None:
    """Refuse numbers that 32 bits do not hold."""
    for name, value in vars(settings).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                most = LARGEST_INTEGER if isinstance(number, int) else LARGEST_NUMBER
                _require(not number > most, f"{group}.{name}", f"at most {most}", value)


def _require_choice(name: str, value: object, choices: Collection[str]) -> None:
    if value not in choices:
        near = suggestion(value, choices) if isinstance(value, str) else ""
        raise UserError(f"{name} must be one of {', '.join(choices)}, got {value!r}{near}")


def network_implementation(recurrence: Implementation) -> NetworkImplementation:
    """Return the implementation of attention and auxiliary loss for one of the recurrences."""
    if recurrence in typing.get_args(NetworkImplementation):
        return typing.cast(NetworkImplementation, recurrence)
    return "xla"


@dataclass(frozen=True)
class ModelConfig:
    """The interest model."""

    embedding_size: int = 18
    """Size of every embedding. The GRU's input is the item's and its category's, concatenated."""
    hidden_size: int = 36
    """Size of the interest states, in the interest extractor and in interest evolution."""
    extractor: Literal["none", "gru"] = "gru"
    """Interest extractor: the states of a GRU over the history, or none (the embeddings)."""
    evolution: Evolution | str = "augru"
    """Interest evolution, how interest states are combined: none; attention (weighted sum);
    gru_attention (weighted sum of a second GRU's states); aigru, agru or augru (last state of a
    recurrence with attention on its input, instead of its update gate, or scaling it)."""
    product: bool = True
    """Feed the product of target item and pooled history to the click network, as in PNN."""
    wide: bool = False
    """Add a linear function of target item, history and product to the logit, as in Wide&Deep."""
    form: Form = "paper"
    """Definition of the gates, of which two are published; see kernels/README.md."""
    recurrence: Implementation = "auto"
    """Implementation of the recurrences; see kernels/README.md. Attention and the auxiliary loss
    have the same if it is auto, reference, xla or native, and xla with the others."""
    recurrence_precision: Precision = "highest"
    """Precision of the recurrences' matmuls: highest is float32; high and default are faster on GPU
    and TPU."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the networks. Parameters, recurrent states, softmax, statistics and losses
    stay float32."""
    attention: Attention | str = "mlp"
    """Attention scores: an MLP, as in the authors' program, or a bilinear form, as in the paper."""
    attention_layers: LAYER_SIZES = (80, 40)
    """Hidden layer sizes of the attention MLP."""
    auxiliary_layers: LAYER_SIZES = (100, 50)
    """Hidden layer sizes of the auxiliary network."""
    auxiliary_weight: float = 8.0
    """Weight of the auxiliary loss; 0 removes it and its network."""
    auxiliary_negatives: int = 1
    """Sampled items that each interest state learns to distinguish from the next behaviour."""
    auxiliary_distribution: Literal["popularity", "uniform", "shown"] = "popularity"
    """Distribution of auxiliary negatives: popularity in training; uniform over items; shown (items
    shown with the behaviour and not clicked, or by popularity where there are none)."""
    auxiliary_mean: Literal["live", "all"] = "live"
    """Positions that the auxiliary loss averages over; all includes padding."""
    pooling: Literal["mean", "sum", "padded_sum"] = "mean"
    """Pooling of the history for the click network; padded_sum counts padding as item 0."""
    statistics: bool = True
    """Feed counts of training events to the click network: how many users chose the candidate, and
    the candidate together with the history, by item and category."""
    factors: bool = True
    """With statistics, feed similarities of candidate and history too, by vectors of items and
    categories from a factorization of which training users chose what."""
    transitions: bool = True
    """With factors, feed similarities by vectors from a factorization of which items came next."""
    logistic_regression: bool = True
    """Add the logit of a logistic regression on counts and feature values. It is fitted before the
    first step and stays as it is, so that the networks learn what it leaves."""
    statistics_layers: LAYER_SIZES = (64, 32)
    """Hidden layer sizes of networks on counts and similarities alone, fitted after the logistic
    regression and fixed like it; () leaves them out."""
    layers: LAYER_SIZES = (200, 80)
    """Hidden layer sizes of the click network."""
    activation: Literal["prelu", "dice"] = "dice"
    """Activation of the click network."""
    dice_statistics: Literal["running", "batch"] = "running"
    """Statistics of Dice: running averages, or those of the batch, in scoring too."""
    batch_norm: Literal["none", "running", "frozen"] = "running"
    """Batch normalization of the input of click and auxiliary network; frozen only scales."""
    dropout: float = 0.5
    """Share of the click network's hidden units that are dropped in training."""
    classifier: Literal["logistic", "softmax"] = "logistic"
    """Output of the click and auxiliary networks: one logit, or a softmax over two columns with the
    click loss averaged over both, as in the authors' program."""

    def __post_init__(self) -> None:
        check = functools.partial(_check, self, "model")
        _check_numbers(self, "model")
        sizes = f"layer sizes (at most {MOST_LAYERS}), each at least 1"
        check("embedding_size hidden_size auxiliary_negatives", lambda n: n >= 1, "at least 1")
        check("attention_layers auxiliary_layers layers", _are_layers, f"one or more {sizes}")
        check("statistics_layers", lambda n: not n or _are_layers(n), f"{sizes}, or ()")
        check("auxiliary_weight", lambda weight: 0 <= weight < math.inf, "0 or more")
        without_gru = "0 unless model.extractor is 'gru'"
        check("auxiliary_weight", lambda w: self.extractor == "gru" or not w, without_gru)
        check("dropout", lambda share: 0 <= share < 1, "in [0, 1)")
        for name, choices in (("attention", Attention), ("evolution", Evolution)):
            known = dict.fromkeys([*typing.get_args(choices), *ADDED_CHOICES.get(name, ())])
            _require_choice(f"model.{name}", getattr(self, name), known)

    @property
    def reads(self) -> dict[str, bool]:
        """Tables of a dataset that the model reads besides features, and whether it does."""
        factors = self.statistics and self.factors
        transitions = factors and self.transitions
        return {"statistics": self.statistics, "factors": factors, "transitions": transitions}

    @property
    def has_statistics_network(self) -> bool:
        """True if the model has networks on counts alone: with counts and a logistic regression."""
        return self.statistics and self.logistic_regression and bool(self.statistics_layers)

    @property
    def networks(self) -> NetworkImplementation:
        """Implementation of attention and of the auxiliary loss."""
        return network_implementation(self.recurrence)

    @property
    def may_be_native(self) -> bool:
        """True if native kernels may compute a part of the model."""
        has_recurrence = self.extractor != "none" or self.evolution not in ("none", "attention")
        has_attention = self.evolution != "none" and self.attention == "mlp"
        return (has_recurrence or has_attention) and self.recurrence in ("auto", "native")

    @property
    def shown_per_step(self) -> int:
        """Items shown and not clicked that a batch must hold for each step."""
        used = self.auxiliary_distribution == "shown" and self.auxiliary_weight > 0
        return self.auxiliary_negatives if used else 0


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, through optax."""

    name: Literal["adam", "adamw"] = "adam"
    """Optimizer."""
    learning_rate: float = 1e-3
    """Learning rate, before schedule and warm-up."""
    schedule: Literal["constant", "halving", "cosine"] = "constant"
    """Learning rate schedule: halving after each epoch; cosine to 0 over train.epochs."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises linearly from 0."""
    embedding_update: Literal["auto", "dense", "lazy_adam", "rowwise_adagrad"] = "auto"
    """Update of embedding tables with more than 4096 rows: dense (the optimizer, every row);
    lazy_adam (Adam, only rows in the batch); rowwise_adagrad (Adagrad with one accumulator per
    row, only rows in the batch); auto (dense; lazy_adam if these tables have more than 65,536 rows
    together). The time of lazy_adam and rowwise_adagrad does not depend on the tables' size."""
    embedding_learning_rate: float = 1e-2
    """Learning rate of rowwise_adagrad, with the same schedule and warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices other than embeddings; only with adamw."""
    embedding_l2: float = 0.0
    """Weight of the mean squared norm of a batch's embedding rows in the loss."""
    clip_norm: float | None = None
    """Greatest global norm of the gradients, which are scaled down to it."""

    def __post_init__(self) -> None:
        check = functools.partial(_check, self, "optim")
        _check_numbers(self, "optim")
        check("learning_rate embedding_learning_rate", lambda r: 0 < r < math.inf, "above 0")
        check("warmup_steps weight_decay embedding_l2", lambda v: 0 <= v < math.inf, "0 or more")
        other = "0 unless optim.name is 'adamw'"
        check("weight_decay", lambda decay: decay == 0 or self.name == "adamw", other)
        check("clip_norm", lambda norm: norm is None or norm > 0, "above 0")


@dataclass(frozen=True)
class TrainConfig:
    """Batches, order of examples, stopping and reporting."""

    batch_size: int = 128
    """Examples in a batch."""
    epochs: int = 20
    """Maximum number of epochs; early stopping usually ends a run before."""
    patience: int = 4
    """Evaluations without a better validation score before the run stops; 0 disables stopping."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 evaluates after each epoch."""
    log_every: int = 100
    """Steps between reports of the training metrics."""
    max_history: int = 100
    """Maximum length of a history; only the latest behaviours are kept."""
    buckets: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Lengths that batches are padded to, besides max_history."""
    order: Literal["auto", "shuffled", "keyed", "sorted"] = "auto"
    """Order of examples: shuffled; keyed (shuffled without an array of all examples); auto
    (shuffled up to 10 million examples, keyed beyond); or sorted (the same batches in every epoch,
    sorted by length within buffers of the file's order, and only the order of batches is random).
    """
    unknown_users: float = 0.5
    """Share of training examples whose user is replaced by the unknown user, which trains the
    embedding of users outside the training split; 1 removes user ids from the model."""
    calibrate: bool = True
    """Fit a calibration to the validation scores at the end, and apply it to all scores of the run;
    the order of scores stays."""
    click_rate: float | None = None
    """True share of clicks among the candidates in use, where negatives were drawn: scores of
    predict, Ranker, export and serve are shifted to it. Evaluation keeps the share of the data."""
    unknown_items: float = 0.02
    """Share of candidates and of behaviours that are replaced by the unknown item in training,
    which trains the embedding of items outside the training split."""
    deterministic: bool = False
    """Make training bitwise repeatable on a GPU, where it is then slower; on a CPU it always is."""

    def __post_init__(self) -> None:
        check = functools.partial(_check, self, "train")
        _check_numbers(self, "train")
        check("batch_size epochs log_every max_history", lambda n: n >= 1, "at least 1")
        check("patience evaluate_every", lambda n: n >= 0, "0 or more")
        check("unknown_users", lambda share: 0 <= share <= 1, "in [0, 1]")
        rate = "above 0 and below 1"
        check("click_rate", lambda share: share is None or 0 < share < 1, rate)
        needs = "none without train.calibrate"
        check("click_rate", lambda share: share is None or self.calibrate, needs)
        check("unknown_items", lambda share: 0 <= share < 1, "in [0, 1)")
        rising = "rising lengths, each at least 1"
        check("buckets", lambda n: [*n] == sorted({*n}) and min(n, default=1) >= 1, rising)


@dataclass(frozen=True)
class MeshConfig:
    """Devices of a run. They do not change what is trained, so they are not part of ``Config``.

    >>> from dien_jax.config import MeshConfig
    >>> MeshConfig(data=2).data
    2
    >>> MeshConfig(devices=(0, 2, 3)).number
    3

    Attributes:
      number: devices that are asked for; None without either setting.
    """

    data: int | None = None
    """Number of devices that share each batch and the rows of large tables, of all processes
    together; it must divide train.batch_size. Default: all that there are, or as many as divide
    it."""
    devices: tuple[int, ...] | None = None
    """Devices to use, by the id that JAX gives each, such as 0 2 3; with several processes as many
    of each. Default: the first ones, as many as --mesh.data says."""

    def __post_init__(self) -> None:
        _check_numbers(self, "mesh")
        _check(self, "mesh", "data", lambda n: n is None or n >= 1, "at least 1")
        if (ids := self.devices) is not None:
            are_ids = bool(ids) and len({*ids}) == len(ids) and min(ids) >= 0
            _require(are_ids, "mesh.devices", "one or more different ids, at least 0 each", ids)
            same = f"{len(ids)}, the number of mesh.devices, or left out"
            _require(self.data in (None, len(ids)), "mesh.data", same, self.data)

    @property
    def number(self) -> int | None:
        return self.data if self.devices is None else len(self.devices)


@dataclass(frozen=True)
class Config:
    """All settings of a run except its data, folder, seed and devices.

    >>> from dien_jax import Config, TrainConfig
    >>> config = Config(train=TrainConfig(epochs=2))
    >>> Config.from_dict({"train": {"epochs": 2}}) == config
    True
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_json(self) -> str:
        """Return the settings as indented JSON, for :meth:`from_dict`."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, complete: bool = False) -> "Config":
        """Return settings from nested dicts; those left out have their defaults.

        An unknown name or a wrong value is a :class:`UserError` that names it, and so is one that
        is left out if the settings have to be ``complete``.
        """
        config = _build(cls, values, "")
        for group, settings in dataclasses.asdict(config).items() if complete else ():
            for name in settings:
                if name not in values.get(group, {}):
                    raise UserError(f"expected the setting {group}.{name}, which is missing")
        return config


def _build(cls: type, values: Any, prefix: str) -> Any:
    _require(isinstance(values, dict), prefix.rstrip(".") or "the settings", "an object", values)
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"unknown setting {prefix + name!r}{suggestion(name, hints)}")
        arguments[name] = _convert(hints[name], value, prefix + name)
    return cls(**arguments)


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, name + ".")
    origin = typing.get_origin(hint)
    if origin is Literal:
        _require_choice(name, value, typing.get_args(hint))
        return value
    if origin is tuple:
        _require(isinstance(value, list | tuple), name, "a list", value)
        return tuple(_convert(typing.get_args(hint)[0], entry, name) for entry in value)
    if origin in (typing.Union, types.UnionType):
        if str in typing.get_args(hint):  # one of an open set of names, which __post_init__ checks
            return _convert(str, value, name)
        return None if value is None else _convert(typing.get_args(hint)[0], value, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _require(isinstance(value, hint) and (hint is bool) == isinstance(value, bool), name,
             f"of type {hint.__name__}", value)  # fmt: skip
    return value
