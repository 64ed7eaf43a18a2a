"""Types of requests and answers, decoders that validate requests, and their description.

Request types depend on the model: its features of requests and events are fields. The description
is an OpenAPI document, and an HTML page that shows it.
"""

import datetime
import html
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Annotated, Any

import msgspec

from dien_jax._version import __version__
from dien_jax.data.kinds import KINDS
from dien_jax.data.schema import Feature, Schema
from dien_jax.server.run import MAX_ID_LENGTH, ServerOptions
from dien_jax.utils.json_values import LARGEST_COUNT, in_words

_Whole = int | Annotated[float, msgspec.Meta(multiple_of=1)]
"""A whole number; JSON may write 3 as 3.0."""
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)] | _Whole
"""A string or a whole number."""
_User = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)] | _Whole | None
"""An id, or nothing for an unknown user."""
_AT = re.compile(r"(?s)(.*) - at '\$\.?(.*)'")
_SHOWN = 200
"""Maximum number of characters of an error and of a field, whose name may be the client's."""
_NAMED = re.compile(r"Object (?:contains unknown|missing required) field '(.*)'")


class Ranked(msgspec.Struct):
    """Ranked candidates or listed items, the highest score first."""

    ids: list[str]
    scores: list[float]
    unknown_history: int
    unknown_candidates: int
    unknown_values: int
    checkpoint_step: int | None


class Remembered(msgspec.Struct):
    """A remembered user, and the number of remembered users."""

    user: str
    remembered_users: int


class Failure(msgspec.Struct):
    """An error, and the field of the request that it concerns."""

    error: str
    field: str | None = None


class Status(msgspec.Struct, omit_defaults=True):
    """Status of the server, the name of its run folder or file, and the time of its checkpoint.

    ``reload_error`` is present after a failed reload.
    """

    status: str
    model: str
    written: str
    checkpoint_step: int | None
    reload_error: str | None = None


def utc_text(seconds: float) -> str:
    """Return a Unix time as an ISO date, such as ``1970-01-01T00:00:00Z``."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def arguments(message: Any) -> dict[str, Any]:
    """Return the fields of a request as arguments of the ``Ranker`` method that answers it."""
    return _with_whole_numbers(msgspec.to_builtins(message))


def _with_whole_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_whole_numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def request_decoders(schema: Schema, options: ServerOptions) -> dict[str, msgspec.json.Decoder]:
    """Return decoders of a model's requests, whose fields are arguments of ``Ranker``'s methods."""
    event: Any = Id
    if schema.event:
        event = Id | _of_features("Event", {"item": (Id,)} | _cells(schema.event, None))
    history: Any = Annotated[list[event], msgspec.Meta(max_length=options.max_history)]
    candidates = Annotated[list[Id], msgspec.Meta(min_length=1, max_length=options.max_candidates)]
    features, name = _of_features("RequestFeatures", _cells(schema.request)), "request_features"
    of_request = (name, features) if schema.request else (name, features | None, None)
    of_user = [of_request, ("history", history | None, None), ("user", _User, None)]
    length = _count(options.max_candidates)
    limit = _count(LARGEST_COUNT) | None, None
    limited = [feature.name for feature in schema.item[1:] if feature.kind == "categorical"]
    at_most = _of_features("AtMost", dict.fromkeys(limited, limit))
    structs: dict[str, list[Any]] = {
        "Rank": [("candidates", candidates), *of_user],
        "Recommend": [
            *of_user,
            ("n", length, 10),
            ("exclude_history", bool, True),
            ("candidates", candidates | None, None),
            ("exclude", list[Id], []),
            ("at_most", at_most | None, None),
        ],
        "Remember": [("user", Id), ("history", history)],
        "Observe": [("user", Id), ("event", event)],
    }
    how: Any = {"forbid_unknown_fields": True, "kw_only": True}
    types = {name: msgspec.defstruct(name, fields, **how) for name, fields in structs.items()}
    return {name.lower(): msgspec.json.Decoder(type_) for name, type_ in types.items()}


def _cells(features: Sequence[Feature], *default: Any) -> dict[str, tuple[Any, ...]]:
    """Return the types of features in JSON and, if given, the default."""
    return {feature.name: (KINDS[feature.kind].cell, *default) for feature in features}


def _count(largest: int) -> Any:
    """Return the type of a whole number from 1 to the largest."""
    return (
        Annotated[int, msgspec.Meta(ge=1, le=largest)]
        | Annotated[float, msgspec.Meta(ge=1, le=largest, multiple_of=1)]
    )


def _of_features(name: str, types: Mapping[str, tuple[Any, ...]]) -> Any:
    """Return a struct with a field for each feature, from its type and default; names are free.

    Limits that are not given are left out of the arguments.
    """
    fields = [(f"f{place}", *typed) for place, typed in enumerate(types.values())]
    names = {f"f{place}": feature for place, feature in enumerate(types)}
    how: Any = {"forbid_unknown_fields": True, "omit_defaults": True}
    return msgspec.defstruct(name, fields, rename=names, **how)


def validation_failure(error: msgspec.ValidationError) -> Failure:
    """Return the message of a validation error, and the path of its field."""
    text = in_words(error)
    at = _AT.fullmatch(text)
    message, field = (at[1], at[2]) if at else (text, "")
    named = _NAMED.fullmatch(message)
    if named:
        field = f"{field}.{named[1]}" if field else named[1]
    return Failure(message[:_SHOWN], field[:_SHOWN] or None)


_ERRORS = {
    400: "The body is not JSON.",
    401: "The bearer token is missing or wrong.",
    404: "The user is not remembered: send the history.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The content type is not application/json, or the body is compressed.",
    422: "The body is not valid; `field` names the field.",
    429: "The queue is full.",
    500: "Internal server error; its cause is in the log of the server.",
    503: "Not available: the server is starting, stopping or has failed.",
}
_ITEMS = ("item 1", "item 7", "item 3", "item 4")
"""Invented ids, for examples that must not reveal those of the model."""
_OPERATIONS = (
    (
        "/v1/rank", "post", "rank", Ranked, _ERRORS.keys(),
        "Sort candidates by the probability that the user clicks them, given a history, oldest "
        "event first, or the remembered history of the user.",
    ),
    (
        "/v1/recommend", "post", "recommend", Ranked, _ERRORS.keys(),
        "List the items that the user most probably chooses next, n of all items; scores are log "
        "odds, corrected for how negatives were drawn.",
    ),
    (
        "/v1/remember", "post", "remember", Remembered, _ERRORS.keys() - {404},
        "Remember a user's history, in place of any earlier one.",
    ),
    (
        "/v1/observe", "post", "observe", Remembered, _ERRORS.keys(),
        "Append an event to a remembered history.",
    ),
    ("/healthz", "get", "health", Status, {503}, "Check that the process works."),
    ("/readyz", "get", "ready", Status, {503}, "Check that requests are ranked."),
    ("/metrics", "get", "metrics", str, {401}, "Metrics for Prometheus."),
)  # fmt: skip
"""Path, method, name, type of the answer, error statuses and summary."""


def document(
    decoders: Mapping[str, msgspec.json.Decoder],
    options: ServerOptions,
    *,
    token: bool,
    items: Sequence[str],
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document.

    ``token`` is whether requests need a bearer token. Examples use ``items``, if any.
    """
    requests: dict[str, Any] = {name: decoder.type for name, decoder in decoders.items()}
    types = [*requests.values(), Ranked, Remembered, Status, Failure, str]
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(types, schemas, strict=True))
    given = {"not": {"type": "null"}}
    either = [{"required": [name], "properties": {name: given}} for name in ("history", "user")]
    for name in ("Rank", "Recommend"):
        components[name]["anyOf"] = either

    def response(description: str, type_: type, status: int = 200) -> dict[str, Any]:
        media_type = "text/plain" if type_ is str else "application/json"
        answer = {"description": description, "content": {media_type: {"schema": schema_of[type_]}}}
        seconds = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
        return answer | ({"headers": {"Retry-After": seconds}} if status in (429, 503) else {})

    paths: dict[str, Any] = {}
    for path, method, name, answer, errors, summary in _OPERATIONS:
        operation: dict[str, Any] = {"operationId": name, "summary": summary}
        if name in requests:
            example = _example(requests[name], items or _ITEMS)
            media = {"schema": schema_of[requests[name]], "example": example}
            content = {"application/json": media}
            operation["requestBody"] = {"required": True, "content": content}
        failure = Status if answer is Status else Failure
        operation["responses"] = {"200": response("OK", answer)} | {
            str(status): response(_ERRORS[status], failure, status)
            for status in sorted(errors)
            if token or status != 401
        }
        if token and 401 in errors:
            operation["security"] = [{"token": []}]
        paths[path] = {method: operation}
    description = (
        f"Ranks candidates by a user's history. Limits of a request: {options.max_body:,} bytes, "
        f"{options.max_candidates:,} candidates and {options.max_history:,} events."
    )
    security = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if token else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "dien_jax", "version": __version__, "description": description},
        "paths": paths,
        "components": {"schemas": components, **security},
    }


def _example(request: type[msgspec.Struct], items: Sequence[str]) -> dict[str, Any]:
    """Return a request with required fields, a user and a history; features are missing."""
    examples = {"candidates": items[-2:], "history": items[:2], "user": "Ann", "event": items[-1]}
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(request):
        if field.name == "request_features" and field.required:
            features = msgspec.structs.fields(field.type)
            values[field.name] = {feature.encode_name: None for feature in features}
        elif field.required or field.name in ("history", "user"):
            values[field.name] = examples[field.name]
    return values


def page(document: dict[str, Any], port: int) -> str:
    """Return the document as a self-contained HTML page, with example calls of a local port."""
    info = document["info"]
    parts = [
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1><p>{_text(info['description'])} "
        f'The same as an OpenAPI document: <a href="/openapi.json">/openapi.json</a>.</p>'
    ]
    for path, methods in document["paths"].items():
        ((method, operation),) = methods.items()
        call, rows = f"curl -s localhost:{port}{path}", operation["responses"]
        if "security" in operation:
            call += " -H 'Authorization: Bearer TOKEN'"
        if "requestBody" in operation:
            body = operation["requestBody"]
            example = json.dumps(body["content"]["application/json"]["example"], ensure_ascii=False)
            call += f" -H 'Content-Type: application/json' -d {shlex.quote(example)}"
            rows = {"": {"description": "Request", **body}, **rows}
        parts.append(f"<h2><code>{method.upper()} {path}</code></h2>")
        parts.append(f"<p>{_text(operation['summary'])}</p><pre>{html.escape(call)}</pre><table>")
        for status, row in rows.items():
            parts.append(f"<tr><td>{status}<td>{_text(row['description'])}<td>{_link(row)}")
        parts.append("</table>")
    parts.append("<h2>Types</h2>")
    for name, schema in document["components"]["schemas"].items():
        body = _text(json.dumps(schema, indent=1, ensure_ascii=False))
        parts.append(f'<h3 id="{name}">{name}</h3><pre>{body}</pre>')
    template = Path(__file__).with_name("docs.html").read_text("utf-8")
    return Template(template).substitute(parts="".join(parts))


def _text(content: str) -> str:
    """Return text as HTML, with text in backticks as code."""
    return re.sub("`+(.*?)`+", r"<code>\1</code>", html.escape(content))


def _link(body: dict[str, Any]) -> str:
    (content,) = body["content"].values()
    name = content["schema"].get("$ref", "").rpartition("/")[2]
    return f'<a href="#{name}">{name}</a>' if name else "text"
