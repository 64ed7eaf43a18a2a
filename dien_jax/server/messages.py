"""What requests and answers hold, as types that check what comes in.

The types of a request belong to a model: its context features are fields.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec

from dien_jax.data.schema import Feature, Schema
from dien_jax.data.vocabularies import LARGEST_NUMBER

Id = str | int | Annotated[float, msgspec.Meta(multiple_of=1)]
"""A text or a whole number, which JSON may have as 3.0 too: see :func:`as_ids`."""
_CELL = str | int | float | bool
_AT = re.compile(r"(?s)(.*) - at `\$\.?(.*)`")
_NAMED = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`")


@dataclass(frozen=True)
class Limits:
    """What a request may hold.

    Attributes:
      body: bytes.
      candidates: ids.
      history: events.
    """

    body: int = 2**20
    candidates: int = 1000
    history: int = 1000


class Ranked(msgspec.Struct):
    """Candidates, the likeliest click first."""

    ids: list[str]
    scores: list[float]
    unknown_history: int
    unknown_candidates: int
    unknown_context: int
    checkpoint_step: int | None


class Remembered(msgspec.Struct):
    """Whom the model knows now."""

    user: str
    remembered_users: int


class Failure(msgspec.Struct):
    """What went wrong, and in which field of the request."""

    error: str
    field: str | None = None


class Status(msgspec.Struct):
    """How the server is."""

    status: str
    checkpoint_step: int | None


class Messages(NamedTuple):
    """Readers of the three requests of a model; fields as in ``Ranker``'s methods."""

    rank: msgspec.json.Decoder
    remember: msgspec.json.Decoder
    observe: msgspec.json.Decoder


def messages(schema: Schema, limits: Limits) -> Messages:
    """Readers of a model's requests."""
    history = Annotated[list[Id], msgspec.Meta(max_length=limits.history)]
    candidates = Annotated[list[Id], msgspec.Meta(min_length=1, max_length=limits.candidates)]
    names = {f"f{place}": feature.name for place, feature in enumerate(schema.context)}
    context = msgspec.defstruct(
        "Context",
        [(field, _cell_type(f)) for field, f in zip(names, schema.context, strict=True)],
        rename=names,
        forbid_unknown_fields=True,
    )
    of_rank: list[Any] = [("candidates", candidates)]
    if schema.context:
        of_rank += [("context", context)]
    of_rank += [("history", history | None, None), ("user", Id | None, None)]
    if not schema.context:
        of_rank += [("context", context | None, None)]

    def struct(name: str, fields: list[Any]) -> msgspec.json.Decoder:
        return msgspec.json.Decoder(msgspec.defstruct(name, fields, forbid_unknown_fields=True))

    return Messages(
        struct("Rank", of_rank),
        struct("Remember", [("user", Id), ("history", history)]),
        struct("Observe", [("user", Id), ("event", Id)]),
    )


def _cell_type(feature: Feature) -> Any:
    if feature.kind == "numeric":
        return Annotated[float, msgspec.Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)] | None
    if feature.kind == "multivalued":
        return list[_CELL] | str | None
    return _CELL | None


def as_ids(ids: list[Any]) -> list[str | int]:
    """Ids as they are in logs, where 3.0 is 3."""
    if float not in map(type, ids):
        return ids
    return [int(one) if isinstance(one, float) else one for one in ids]


def failure(error: msgspec.ValidationError) -> Failure:
    """What a type found wrong, beside the field that it found it in."""
    at = _AT.fullmatch(str(error))
    message, field = (at[1], at[2]) if at else (str(error), "")
    named = _NAMED.fullmatch(message)
    if named:
        field = f"{field}.{named[1]}" if field else named[1]
    return Failure(message.replace("`", "'"), field or None)
