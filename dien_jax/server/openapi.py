"""The OpenAPI document of a model's server, and a page that shows it."""

import html
import json
from typing import Any

import msgspec

from dien_jax._version import __version__
from dien_jax.server.messages import Failure, Limits, Messages, Ranked, Remembered, Status

_TEMPLATE = "#/components/schemas/{name}"
_RETRY = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}
_FAILURES = {
    "400": "The body is not JSON.",
    "401": "The bearer token is missing or wrong.",
    "404": "The user is not remembered: send the history.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not of type application/json.",
    "422": "The body does not fit; `field` says where.",
    "429": "Too many requests wait.",
    "500": "The server is at fault, and has logged why.",
    "503": "The server is not ready: it starts or ends.",
}


def document(messages: Messages, limits: Limits, *, token: bool) -> dict[str, Any]:
    """The document: OpenAPI 3.1.

    Args:
      messages: of the model.
      limits: of requests.
      token: whether requests need one.
    """
    types = [*(reader.type for reader in messages), Ranked, Remembered, Failure, Status]
    _, schemas = msgspec.json.schema_components(types, ref_template=_TEMPLATE)

    def failures(*statuses: str) -> dict[str, Any]:
        found = {}
        for status in statuses:
            if status == "401" and not token:
                continue
            found[status] = _answer(_FAILURES[status], "Failure")
            if status in ("429", "503"):
                found[status]["headers"] = _RETRY
        return found

    def post(name: str, request: str, answer: str, summary: str, *more: str) -> dict[str, Any]:
        statuses = sorted(["400", "401", "408", "413", "415", "422", "429", "500", "503", *more])
        return {
            "post": {
                "operationId": name,
                "summary": summary,
                "requestBody": {"required": True, "content": _json(request)},
                "responses": {"200": _answer("Done.", answer), **failures(*statuses)},
                **secured,
            }
        }

    def get(name: str, summary: str, content: dict[str, Any], **more: Any) -> dict[str, Any]:
        responses = {"200": {"description": "Here it is.", "content": content}}
        return {
            "get": {
                "operationId": name,
                "summary": summary,
                "responses": responses | more.pop("responses", {}),
                **more,
            }
        }

    secured: dict[str, Any] = {"security": [{"token": []}]} if token else {}
    text = {"text/plain": {"schema": {"type": "string"}}}
    unready = {"503": _answer("Not ready.", "Status") | {"headers": _RETRY}}
    paths = {
        "/v1/rank": post(
            "rank",
            "Rank",
            "Ranked",
            "Candidates sorted by the probability that the user clicks them, after `history` "
            "(oldest event first) or, without it, after what is remembered of `user`.",
            "404",
        ),
        "/v1/remember": post(
            "remember", "Remember", "Remembered", "Keeps a user's history, in place of any other."
        ),
        "/v1/observe": post(
            "observe",
            "Observe",
            "Remembered",
            "Adds an event to the end of a remembered history.",
            "404",
        ),
        "/healthz": get(
            "health",
            "Whether the process works.",
            _json("Status"),
            responses={"503": _answer("It does not.", "Status") | {"headers": _RETRY}},
        ),
        "/readyz": get("ready", "Whether requests are ranked.", _json("Status"), responses=unready),
        "/metrics": get(
            "metrics", "Figures for Prometheus.", text, responses=failures("401"), **secured
        ),
    }
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "dien_jax",
            "version": __version__,
            "description": f"Ranks candidates for users by their histories. A body has at most "
            f"{limits.body:,} bytes, a request {limits.candidates:,} candidates and "
            f"{limits.history:,} events.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return found


def page(document: dict[str, Any]) -> str:
    """The document as HTML that needs nothing from elsewhere."""
    info, schemas = document["info"], document["components"]["schemas"]
    parts = [
        f"<h1>{html.escape(info['title'])} {html.escape(info['version'])}</h1>",
        f"<p>{html.escape(info['description'])} "
        f'As a document: <a href="/openapi.json">/openapi.json</a>.</p>',
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {path}</code></h2>")
            parts.append(f"<p>{html.escape(operation['summary'])}</p>")
            if "requestBody" in operation:
                parts.append(f"<p>Body: {_link(operation['requestBody'])}</p>")
            rows = (
                f"<tr><td>{status}<td>{html.escape(answer['description'])}<td>{_link(answer)}"
                for status, answer in operation["responses"].items()
            )
            parts.append(f"<table>{''.join(rows)}</table>")
    parts.append("<h2>Bodies</h2>")
    for name, schema in schemas.items():
        text = html.escape(json.dumps(schema, indent=1, ensure_ascii=False))
        parts.append(f'<h3 id="{html.escape(name)}">{html.escape(name)}</h3><pre>{text}</pre>')
    style = "body{font-family:sans-serif;max-width:50em;margin:2em auto}td{padding-right:1em}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>dien_jax</title>'
        f"<style>{style}</style>{''.join(parts)}</html>"
    )


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _TEMPLATE.format(name=name)}}}


def _answer(description: str, name: str) -> dict[str, Any]:
    return {"description": description, "content": _json(name)}


def _link(body: dict[str, Any]) -> str:
    schema = next(iter(body["content"].values()))["schema"]
    if "$ref" not in schema:
        return "text"
    name = schema["$ref"].rpartition("/")[2]
    return f'<a href="#{name}">{name}</a>'
