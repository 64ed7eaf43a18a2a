"""The OpenAPI description of a server, and an HTML page that shows it."""

import html
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from dien_jax._version import __version__
from dien_jax.server.messages import Failure, Ranked, Remembered, Status
from dien_jax.server.options import ServerOptions

_ERRORS = {
    400: "The body is not JSON.",
    401: "The bearer token is missing or wrong.",
    404: "The user is not remembered: send the history.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The content type is not application/json.",
    422: "The body is not valid; `field` names the field.",
    429: "The queue is full.",
    500: "Internal server error; its cause is in the log of the server.",
    503: "Not available: the server is starting, stopping or has failed.",
}
_OPERATIONS = (
    (
        "/v1/rank", "post", "rank", Ranked, _ERRORS.keys(),
        "Sort candidates by the probability that the user clicks them, given `history` (oldest "
        "event first) or, without it, the remembered history of `user`.",
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
    decoders: Mapping[str, msgspec.json.Decoder], options: ServerOptions, *, token: bool
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document; ``token`` says whether requests need a bearer token."""
    requests = {name: decoder.type for name, decoder in decoders.items()}
    answers = dict.fromkeys(answer for _, _, _, answer, _, _ in _OPERATIONS if answer is not str)
    types = [*requests.values(), *answers, Failure, str]
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(types, schemas, strict=True))

    def response(description: str, type_: type, status: int = 200) -> dict[str, Any]:
        media_type = "text/plain" if type_ is str else "application/json"
        answer = {"description": description, "content": {media_type: {"schema": schema_of[type_]}}}
        seconds = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
        return answer | ({"headers": {"Retry-After": seconds}} if status in (429, 503) else {})

    paths: dict[str, Any] = {}
    for path, method, name, answer, errors, summary in _OPERATIONS:
        operation: dict[str, Any] = {"operationId": name, "summary": summary}
        if name in requests:
            content = {"application/json": {"schema": schema_of[requests[name]]}}
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


def page(document: dict[str, Any]) -> str:
    """Return the document as an HTML page that loads nothing else."""
    info, text = document["info"], html.escape
    parts = [
        f"<h1>{text(info['title'])} {text(info['version'])}</h1><p>{text(info['description'])} "
        f'The same as an OpenAPI document: <a href="/openapi.json">/openapi.json</a>.</p>'
    ]
    for path, methods in document["paths"].items():
        ((method, operation),) = methods.items()
        parts.append(f"<h2><code>{method.upper()} {path}</code></h2>")
        parts.append(f"<p>{text(operation['summary'])}</p><table>")
        if "requestBody" in operation:
            parts.append(f"<tr><td><td>Request<td>{_link(operation['requestBody'])}")
        for status, response in operation["responses"].items():
            description = text(response["description"])
            parts.append(f"<tr><td>{status}<td>{description}<td>{_link(response)}")
        parts.append("</table>")
    parts.append("<h2>Types</h2>")
    for name, schema in document["components"]["schemas"].items():
        body = text(json.dumps(schema, indent=1, ensure_ascii=False))
        parts.append(f'<h3 id="{text(name)}">{text(name)}</h3><pre>{body}</pre>')
    style = "body{font-family:sans-serif;max-width:50em;margin:2em auto}td{padding-right:1em}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>dien_jax</title>'
        f"<style>{style}</style>{''.join(parts)}</html>"
    )


def _link(body: dict[str, Any]) -> str:
    (content,) = body["content"].values()
    name = content["schema"].get("$ref", "").rpartition("/")[2]
    return f'<a href="#{name}">{name}</a>' if name else "text"
