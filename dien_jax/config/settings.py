"""Settings of a model and its training: frozen dataclasses that are checked at construction.

``config.json`` of a run folder holds a ``Config``. The docstrings below the fields are the help
texts of ``python -m dien_jax.train --help``.
"""

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from dien_kernels.options import Form, Implementation, NetworkImplementation, Precision

from dien_jax.errors import UserError, suggestion
from dien_jax.utils.json_values import BelowOne, LargeCount, NotNegative, Positive, Share, converted

Evolution = Literal["none", "attention", "gru_attention", "aigru", "agru", "augru"]
Attention = Literal["mlp", "bilinear"]
Auxiliary = Literal["binary", "softmax"]

LARGEST_NUMBER = 3.4e38  # largest value of a float setting, about that of float32
LARGEST_INTEGER = 2**31 - 1  # largest value of an integer setting, and of the steps of a run

MOST_LAYERS = 100  # layers of a network; each makes compilation longer
LARGEST_PORT = 65535
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]/]+):(?P<port>[0-9]{1,5})")


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise UserError(f"{name} must be {expected}, got {value!r}")


def check_values(settings: object, group: str) -> None:
    """Refuse values of wrong types, unknown choices, and numbers that do not fit in 32 bits."""
    for name, hint in typing.get_type_hints(type(settings), include_extras=True).items():
        value = converted(hint, getattr(settings, name), f"{group}.{name}")
        object.__setattr__(settings, name, value)  # a list becomes a tuple
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                most = LARGEST_INTEGER if isinstance(number, int) else LARGEST_NUMBER
                _require(not number > most, f"{group}.{name}", f"at most {most}", value)


def network_implementation(implementation: Implementation) -> NetworkImplementation:
    """Return the implementation of attention and auxiliary loss that goes with a recurrence's."""
    if implementation in typing.get_args(NetworkImplementation):
        return typing.cast(NetworkImplementation, implementation)
    return "xla"


@dataclass(frozen=True)
class ModelConfig:
    """The click model."""

    embedding_size: Positive = 18
    """Size of embeddings. The GRU reads the embeddings of item and category, concatenated."""
    item_embedding_size: Positive | None = None
    """Size of the embeddings of item ids; None is model.embedding_size."""
    initial_embeddings: Literal["vectors", "random"] = "vectors"
    """Initial embeddings of items: vectors (from a factorization of the training events, similar
    for items that the same users chose; training keeps embeddings near them) or random. Other
    embeddings start at random."""
    hidden_size: Positive = 36
    """Size of the interest states, in the interest extractor and in interest evolution."""
    extractor: Literal["none", "gru"] = "gru"
    """Interest extractor: the states of a GRU over the history, or none (the embeddings)."""
    evolution: Evolution | str = "augru"
    """Interest evolution, how interest states are combined: none; attention (weighted sum);
    gru_attention (weighted sum of a second GRU's states); aigru, agru or augru (last state of a
    recurrence where attention scales the input, replaces or scales the update gate)."""
    product: bool = True
    """Feed the product of target item and pooled history to the click network, as in PNN."""
    wide: bool = False
    """Add a linear function of target item, history and product to the logit, as in Wide&Deep."""
    gates: Form = "paper"
    """Definition of the gates, by the paper or by its authors' program; see kernels/README.md."""
    implementation: Implementation = "auto"
    """Implementation of the recurrences; see kernels/README.md. Attention, the auxiliary loss and
    Adam use the same if it is auto, reference, xla or native, and xla otherwise."""
    recurrence_precision: Precision = "highest"
    """Precision of the recurrences' matmuls: highest is float32; high and default are faster on GPU
    and TPU."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the networks. Parameters, recurrent states, softmax, statistics and losses
    stay float32."""
    attention: Attention | str = "mlp"
    """Attention scores: an MLP, as in the authors' program, or a bilinear form, as in the paper."""
    auxiliary: Auxiliary | str = "binary"
    """Auxiliary loss: binary, as in the paper, or a softmax over the next behaviour and sampled
    ones."""
    auxiliary_weight: NotNegative = 8.0
    """Weight of the auxiliary loss; 0 removes it and its network."""
    auxiliary_negatives: Positive = 1
    """Number of items, sampled by training popularity, that each interest state learns to
    distinguish from the next behaviour."""
    statistics: bool = False
    """Add a tower: a function of counts of training events (how many users chose the candidate,
    alone and together with the history) and of similarities of candidate and history (by a
    factorization of these events), plus a weight for each value. It is trained first; its logit is
    added to that of the network, which learns the residual."""
    layers: tuple[Positive, ...] = (200, 80)
    """Hidden layer sizes of the click network."""
    activation: Literal["prelu", "dice"] = "dice"
    """Activation of the click network."""
    dropout: BelowOne = 0.5
    """Share of the click network's hidden units that are dropped in training."""
    follow_authors: bool = False
    """Compute as the program of the paper's authors does: histories are summed with padding, not
    averaged; the mean auxiliary loss counts padding; Dice uses batch statistics, in scoring too;
    batch normalization has constant statistics; outputs are a softmax over two columns, with the
    click loss averaged over both."""

    def __post_init__(self) -> None:
        check_values(self, "model")
        sizes, weight = self.layers, self.auxiliary_weight
        expected = f"one or more layer sizes (at most {MOST_LAYERS})"
        _require(1 <= len(sizes) <= MOST_LAYERS, "model.layers", expected, sizes)
        expected = "0 unless model.extractor is 'gru'"
        _require(self.extractor == "gru" or not weight, "model.auxiliary_weight", expected, weight)

    @property
    def network_implementation(self) -> NetworkImplementation:
        """Implementation of attention, of the auxiliary loss and of Adam."""
        return network_implementation(self.implementation)

    @property
    def may_be_native(self) -> bool:
        """True if native kernels may compute scores of the model."""
        has_recurrence = self.extractor != "none" or self.evolution not in ("none", "attention")
        has_attention = self.evolution != "none" and self.attention == "mlp"
        return (has_recurrence or has_attention) and self.implementation in ("auto", "native")


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, Adam."""

    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    """Learning rate of the network, before the schedule. That of the tower is fixed: it falls from
    0.003 to 0."""
    schedule: Literal["constant", "halving", "cosine"] = "constant"
    """Learning rate schedule: halving after each epoch; cosine to 0 over train.epochs."""
    embedding_update: Literal["auto", "dense", "lazy_adam"] = "auto"
    """Update of embedding tables with more than 4096 rows: dense (every row); lazy_adam (only rows
    in the batch, in a time that does not depend on table size); auto (lazy_adam if these tables
    have more than 65,536 rows in total, else dense)."""

    def __post_init__(self) -> None:
        check_values(self, "optim")


@dataclass(frozen=True)
class TrainConfig:
    """Batches, order of examples, stopping and reporting."""

    batch_size: Positive = 128
    """Examples in a batch."""
    epochs: Positive = 20
    """Maximum number of epochs; early stopping usually ends a run earlier. With a tower, these are
    epochs of the network; the tower is trained first, for as many but at most 8."""
    patience: LargeCount = 3
    """Evaluations without a better validation score before the run stops; 0 disables stopping."""
    evaluate_every: LargeCount = 0
    """Steps between evaluations; 0 evaluates after each epoch."""
    log_every: Positive = 100
    """Steps between reports of the training metrics."""
    max_history: Positive = 100
    """Maximum length of a history; only the latest behaviours are kept."""
    buckets: tuple[Positive, ...] | None = None
    """Lengths that batches are padded to, besides max_history. By default those of 4, 8, 16, 32 and
    64 that save more time in training than they take to compile."""
    order: Literal["time", "shuffled", "sorted"] = "time"
    """Order of examples: time (shuffled, but those of a user in order of time, so that few targets
    were in the history of an earlier step); shuffled; or sorted (the same batches in every epoch,
    sorted by length within buffers in file order; only the order of batches is random)."""
    unknown_users: Share = 0.5
    """Share of training examples whose user is replaced by the unknown user, which trains the
    embedding of users outside the training split; 1 removes user ids from the model. Above 0, 2%
    of candidates and of behaviours are replaced by the unknown item too."""
    calibrate: bool = True
    """Fit a calibration to the validation scores at the end, and apply it to all scores of the run;
    it does not change their order."""
    click_rate: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    """True click rate of the candidates in use, if negatives were sampled: scores of predict,
    Ranker, export and serve are shifted to it. Evaluation keeps the rate of the data."""
    deterministic: bool = False
    """Make training on a GPU bitwise repeatable, but slower; on a CPU it is always repeatable."""

    def __post_init__(self) -> None:
        check_values(self, "train")
        rate, buckets = self.click_rate, self.buckets
        expected = "none without train.calibrate"
        _require(rate is None or self.calibrate, "train.click_rate", expected, rate)
        is_rising = buckets is None or [*buckets] == sorted({*buckets})
        _require(is_rising, "train.buckets", "rising lengths", buckets)

    @property
    def unknown_items(self) -> float:
        """Share of candidates and of behaviours that the unknown item replaces in training.

        It trains the embedding of items outside the training split.
        """
        return 0.02 if self.unknown_users else 0.0


LoggerName = Literal["tensorboard", "mlflow", "wandb"]  # loggers do not change what is trained
LOGGERS: tuple[LoggerName, ...] = typing.get_args(LoggerName)
DEFAULT_LOGGERS: tuple[LoggerName, ...] = ("tensorboard",)


@dataclass(frozen=True)
class MeshConfig:
    """Devices of a run. They do not change what is trained, so they are not part of ``Config``.

    >>> from dien_jax.config import MeshConfig
    >>> MeshConfig(data=2).data
    2
    """

    data: Positive | None = None
    """Number of devices, of all processes, over which each batch and the rows of large tables are
    split; it must divide train.batch_size. Default: the largest number of available devices that
    divides it."""

    def __post_init__(self) -> None:
        check_values(self, "mesh")


@dataclass(frozen=True)
class DistributedConfig:
    """Processes of a run, one or more per host. They do not change what is trained.

    >>> from dien_jax.config import DistributedConfig
    >>> DistributedConfig("10.0.0.1:5000", processes=2, process=0).is_asked
    True
    >>> DistributedConfig().is_asked
    False

    Attributes:
      is_asked: whether the settings ask for several processes.
    """

    coordinator: str | None = None
    """Address HOST:PORT where process 0 listens, with a free port of its host. The same on every
    process; needs --distributed.processes and --distributed.process."""
    processes: Positive | None = None
    """Number of processes of the run, the same on every process. 1 is a run of one process."""
    process: int | None = None
    """Number of this process, from 0. Process 0 writes the run folder and prints."""
    auto: bool = False
    """Take coordinator, number of processes and number of this process from the cluster manager:
    Slurm, Open MPI, Kubernetes or Cloud TPU."""
    timeout: Annotated[int, msgspec.Meta(ge=1, le=24 * 3600)] = 300
    """Seconds that a process waits for all others at the start."""

    def __post_init__(self) -> None:
        check_values(self, "distributed")
        three = ("coordinator", "processes", "process")
        given = [f"distributed.{name}" for name in three if getattr(self, name) is not None]
        missing = [f"distributed.{name}" for name in three if getattr(self, name) is None]
        together = "distributed.coordinator, distributed.processes and distributed.process"
        if self.auto and given:
            found = f"distributed.auto finds {', '.join(given)} by itself"
            raise UserError(f"{found}; give it alone, or all of {together}")
        if given and missing:
            lack = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            raise UserError(f"{together} go together; {lack}")
        if self.coordinator is not None:
            match = _ADDRESS.fullmatch(self.coordinator)
            is_valid = match is not None and 1 <= int(match["port"]) <= LARGEST_PORT
            expected = f"HOST:PORT with a port of 1 to {LARGEST_PORT}, such as 10.0.0.1:5000"
            _require(is_valid, "distributed.coordinator", expected, self.coordinator)
        last = (self.processes or 1) - 1
        expected = f"0 to {last}, as distributed.processes is {self.processes}"
        is_valid = self.process is None or 0 <= self.process <= last
        _require(is_valid, "distributed.process", expected, self.process)

    @property
    def is_asked(self) -> bool:
        return self.auto or (self.processes or 1) > 1


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

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, complete: bool = False) -> "Config":
        """Return settings from nested dicts; missing settings have their defaults.

        An unknown name or a wrong value is a :class:`UserError` that names it. With ``complete``, a
        missing setting is one too.
        """
        config = _build(cls, values)
        for group, settings in dataclasses.asdict(config).items() if complete else ():
            for name in settings:
                if name not in values.get(group, {}):
                    raise UserError(f"expected the setting {group}.{name}, which is missing")
        return config


def _build(cls: type, values: Any, group: str = "") -> Any:
    _require(isinstance(values, dict), group or "the settings", "an object", values)
    prefix = f"{group}." if group else ""
    hints = typing.get_type_hints(cls, include_extras=True)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"unknown setting {prefix + name!r}{suggestion(name, hints)}")
        convert = _build if dataclasses.is_dataclass(hints[name]) else converted
        arguments[name] = convert(hints[name], value, prefix + name)
    return cls(**arguments)
