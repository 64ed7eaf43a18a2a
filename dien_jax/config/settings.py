"""Every setting of a model and its training, as frozen dataclasses that check themselves.

``Config`` is what ``config.json`` of a run folder holds. The library never sees flags: command
lines build a ``Config`` from a preset and overrides, and everything else takes its parts.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from dien_kernels.choice import Implementation

from dien_jax.errors import UserError, suggestion

LAYER_SIZES = tuple[int, ...]


def _require(condition: bool, name: str, expected: str, found: object) -> None:
    if not condition:
        raise UserError(f"{name} must be {expected}, got {found!r}")


@dataclass(frozen=True)
class ModelConfig:
    """The interest model; the two columns of choices are the paper's program's and ours."""

    embedding_size: int = 18
    """Columns of every embedding; item and category concatenated are the GRU's input."""
    hidden_size: int = 36
    """Width of the interest states, extractor and evolution alike."""
    extractor: Literal["none", "gru"] = "gru"
    """What interests are: the states of a GRU over the history, or its embeddings as they are."""
    evolution: Literal["none", "attention", "gru_attention", "aigru", "agru", "augru"] = "augru"
    """What becomes of interests: nothing, their sum weighted by attention, that of a second GRU's
    states, or the last state of a recurrence with attention on its input (aigru), in place of its
    update gate (agru) or on it (augru)."""
    product: bool = True
    """Whether candidate o pooled history enters the MLP, as in PNN."""
    wide: bool = False
    """Whether a linear part of [candidate, history, product] joins the logit, as in Wide&Deep."""
    form: Literal["paper", "authors"] = "paper"
    """Which of the two published definitions of the gates; see kernels/README.md."""
    recurrence: Implementation = "auto"
    """Implementation of the recurrences; see kernels/README.md."""
    recurrence_precision: Literal["highest", "high", "default"] = "highest"
    """Of the recurrences' matmuls: true float32, or the faster ones of a GPU's or TPU's units."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """What networks compute in, and what recurrences read and give; parameters, recurrent states,
    softmax, statistics and losses are float32 either way."""
    attention: Literal["mlp", "bilinear"] = "mlp"
    """The authors' program scores by an MLP, the paper by a bilinear form."""
    attention_layers: LAYER_SIZES = (80, 40)
    """Hidden layers of the attention MLP."""
    auxiliary_layers: LAYER_SIZES = (100, 50)
    """Hidden layers of the auxiliary network."""
    auxiliary_weight: float = 1.0
    """Weight of the auxiliary loss; 0 leaves it, and its network, out."""
    auxiliary_negatives: int = 1
    """Sampled behaviours that each state learns to tell from the next real one."""
    auxiliary_distribution: Literal["popularity", "uniform", "shown"] = "popularity"
    """What auxiliary negatives are drawn from: training events, all items alike, or what was shown
    at the time of a behaviour and not clicked (where nothing was, by popularity)."""
    auxiliary_mean: Literal["live", "all"] = "live"
    """Positions that the auxiliary loss averages over; ``all`` counts padding too."""
    pooling: Literal["mean", "sum", "padded_sum"] = "mean"
    """How raw behaviours enter the MLP; ``padded_sum`` counts padding as item 0."""
    layers: LAYER_SIZES = (200, 80)
    """Hidden layers of the final MLP."""
    activation: Literal["prelu", "dice"] = "dice"
    """Activation of the final MLP."""
    dice_statistics: Literal["running", "batch"] = "running"
    """``batch`` normalises by the batch's own rows, when scoring too."""
    batch_norm: Literal["none", "running", "frozen"] = "running"
    """Normalisation of the MLP's and auxiliary network's input; ``frozen`` only scales."""
    dropout: float = 0.0
    """Share of hidden MLP units dropped in training."""
    classifier: Literal["logistic", "softmax"] = "logistic"
    """``softmax`` ends the click and auxiliary networks in two columns, of which Adam moves each,
    and halves the click loss: a mean over both columns, 1e-8 added, as in their program."""

    def __post_init__(self) -> None:
        for name in ("embedding_size", "hidden_size", "auxiliary_negatives"):
            value = getattr(self, name)
            _require(value >= 1, f"model.{name}", "at least 1", value)
        for name in ("attention_layers", "auxiliary_layers", "layers"):
            value = getattr(self, name)
            _require(
                len(value) > 0 and all(size >= 1 for size in value),
                f"model.{name}",
                "one or more layer sizes, each at least 1",
                value,
            )
        weight = self.auxiliary_weight
        _require(0 <= weight < float("inf"), "model.auxiliary_weight", "0 or more", weight)
        _require(
            self.extractor == "gru" or not weight,
            "model.auxiliary_weight",
            "0 unless model.extractor is 'gru'",
            weight,
        )
        _require(0 <= self.dropout < 1, "model.dropout", "in [0, 1)", self.dropout)

    @property
    def shown_negatives(self) -> int:
        """Items a step that batches must bring along, of those shown and not clicked."""
        used = self.auxiliary_distribution == "shown" and self.auxiliary_weight > 0
        return self.auxiliary_negatives if used else 0


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser, through optax."""

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "halving", "cosine"] = "constant"
    """``halving`` halves it after each epoch; ``cosine`` falls to 0 over ``train.epochs``."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    embedding_update: Literal["dense", "lazy_adam", "rowwise_adagrad"] = "dense"
    """What a step does to embedding tables of more than 4096 rows: the optimiser's step on every
    row, the same on the rows that the batch looks up, or Adagrad's on those, one accumulator a
    row. The last two take as long however many rows a table has."""
    embedding_learning_rate: float = 1e-2
    """Of the tables that rowwise_adagrad updates, under the same schedule and warm-up; its steps
    shrink as squares add up."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices other than embeddings (adamw only)."""
    embedding_l2: float = 0.0
    """Penalty on the squared norm of the embedding rows that a batch looks up, a mean over rows."""
    clip_norm: float | None = None
    """Gradients of a larger global norm are scaled down to it."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "embedding_learning_rate"):
            value = getattr(self, name)
            _require(0 < value < float("inf"), f"optim.{name}", "above 0", value)
        for name in ("warmup_steps", "weight_decay", "embedding_l2"):
            value = getattr(self, name)
            _require(0 <= value < float("inf"), f"optim.{name}", "0 or more", value)
        _require(
            self.weight_decay == 0 or self.name == "adamw",
            "optim.weight_decay",
            "0 unless optim.name is 'adamw'",
            self.weight_decay,
        )
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            "optim.clip_norm",
            "above 0",
            self.clip_norm,
        )


@dataclass(frozen=True)
class TrainConfig:
    """Order of examples, stopping, and what is reported when."""

    batch_size: int = 128
    epochs: int = 20
    """Epochs at most; early stopping usually ends a run before."""
    patience: int = 2
    """Evaluations without a better validation score before the run stops; 0 never stops."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 evaluates at the end of each epoch."""
    log_every: int = 100
    """Steps between fetches of the training metrics."""
    max_history: int = 100
    """Behaviours kept of a history, the latest ones."""
    buckets: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Lengths that batches are padded to, besides ``max_history``."""
    order: Literal["shuffled", "sorted"] = "shuffled"
    """``sorted`` has the same batches in every epoch, cut from the file's order sorted by length
    in buffers; only the order of the batches is drawn anew."""
    unknown_users: float = 0.5
    """Share of training examples whose user counts as unknown, which trains the row that users
    outside the training split share; 1 leaves user ids out of the model."""
    deterministic: bool = False
    """Bitwise repeatable on a GPU too, and slower there; a CPU always is."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "log_every", "max_history"):
            value = getattr(self, name)
            _require(value >= 1, f"train.{name}", "at least 1", value)
        for name in ("patience", "evaluate_every"):
            value = getattr(self, name)
            _require(value >= 0, f"train.{name}", "0 or more", value)
        share = self.unknown_users
        _require(0 <= share <= 1, "train.unknown_users", "in [0, 1]", share)
        _require(
            all(edge >= 1 for edge in self.buckets)
            and list(self.buckets) == sorted(set(self.buckets)),
            "train.buckets",
            "rising lengths, each at least 1",
            self.buckets,
        )


@dataclass(frozen=True)
class Config:
    """All settings of a run but its data, its folder and its seed."""

    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_json(self) -> str:
        """The settings as indented JSON, which :meth:`from_dict` reads back."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Settings from nested dicts.

        Raises:
          UserError: for a name that does not exist (with the nearest one that does), a value of
            the wrong type, or one that a dataclass refuses.
        """
        return _build(cls, values, "")


def _build(cls: type, values: Any, prefix: str) -> Any:
    _require(isinstance(values, dict), prefix.rstrip(".") or "the settings", "an object", values)
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            near = suggestion(name, hints)
            raise UserError(f"unknown setting {prefix + name!r}{near}")
        arguments[name] = _convert(hints[name], value, prefix + name)
    return cls(**arguments)


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, name + ".")
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        near = suggestion(value, choices) if isinstance(value, str) else ""
        _require(value in choices, name, f"one of {', '.join(choices)}{near}", value)
        return value
    if origin is tuple:
        _require(isinstance(value, list | tuple), name, "a list", value)
        return tuple(_convert(typing.get_args(hint)[0], entry, name) for entry in value)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(typing.get_args(hint)[0], value, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _require(isinstance(value, hint) and (hint is bool) == isinstance(value, bool), name,
             f"of type {hint.__name__}", value)  # fmt: skip
    return value
