"""Requests over HTTP that no model should see: each has its status and names its field."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from support import small_dataset, untrained_run

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")

from support.http_server import CONTEXT, PEAR, SLASH, TOKEN, Server, rank_body  # noqa: E402

from dien_jax.server.app import Application  # noqa: E402

WHOLE: dict[str, dict[str, Any]] = {
    "rank": rank_body(),
    "remember": {"user": "Ann", "history": [PEAR, SLASH]},
    "observe": {"user": "Ann", "event": PEAR},
}
JSON = {"Content-Type": "application/json"}


class Request(NamedTuple):
    """A request, and the answers that it may get."""

    kind: str
    name: str
    path: str
    content: bytes
    status: tuple[int, ...]
    field: str | None = None
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = tuple(JSON.items())

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.name}"


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "spaces": b"  \n",
    "a brace": b"{",
    "cut": b'{"user": "pe',
    "trailing comma": b'{"user": "pear",}',
    "single quotes": b"{'user': 'pear'}",
    "a comment": b'{"user": "pear" /* all */}',
    "NaN": b'{"user": NaN}',
    "Infinity": b'{"user": -Infinity}',
    "hexadecimal": b'{"user": 0x10}',
    "leading zero": b'{"user": 007}',
    "bare word": b"{user: 1}",
    "a form": b"candidates=pear&user=Ann",
    "XML": b"<rank><candidates>pear</candidates></rank>",
    "byte order mark": b'\xef\xbb\xbf{"user": "pear"}',
    "UTF-16": '{"user": "pear"}'.encode("utf-16"),
    "no UTF-8": b'{"user": "\xff\xfe"}',
    "overlong UTF-8": b'{"user": "\xc0\xaf"}',
    "half a surrogate pair": b'{"user": "\\ud800"}',
    "surrogates in UTF-8": b'{"user": "\xed\xa0\x80"}',
    "control character": b'{"user": "a\x00b"}',
    "wrong escape": b'{"user": "\\x41"}',
    "zeros": bytes(1000),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(50),
}
OF_NO_FORM: dict[str, bytes] = {
    "a list": b"[]",
    "null": b"null",
    "two values": b'{"user": "pear"} {}',
    "a text": b'"rank"',
    "a number too large": b'{"user": 1e400}',
    "5,000 digits": b'{"user": %s}' % (b"9" * 5000),
    "100,000 brackets": b'{"user": ' + b"[" * 100_000,
    "100,000 objects": b'{"x": ' + b'{"a":' * 100_000,
}
VALUES: dict[str, Any] = {
    "null": None, "true": True, "a fraction": 1.5, "a text": "x", "a whole number": 7,
    "an empty list": [], "a list of lists": [[]], "a list of null": [None],
    "a list of true": [True], "an object": {}, "a list of objects": [{"id": 1}],
    "a list of fractions": [0.5], "an empty text": "", "an empty text in a list": [""],
}  # fmt: skip
FITTING = {
    ("rank", "candidates"): (),
    ("rank", "history"): ("null", "an empty list"),
    ("rank", "user"): ("null", "a text", "a whole number", "an empty text"),
    ("rank", "context"): (),
    ("remember", "user"): ("a text", "a whole number"),
    ("remember", "history"): ("an empty list",),
    ("observe", "user"): ("a text", "a whole number"),
    ("observe", "event"): ("a text", "a whole number"),
}
OPTIONAL = {("rank", "history"), ("rank", "user")}
LONG = "x" * 100_000


def malformed() -> Iterator[Request]:
    for path in WHOLE:
        for name, content in MALFORMED.items():
            yield Request("malformed JSON", name, path, content, (400,))
        for name, content in OF_NO_FORM.items():
            yield Request("JSON of no form", name, path, content, (400, 422))


def wrong_fields() -> Iterator[Request]:
    for (path, field), fitting in FITTING.items():
        body = WHOLE[path]
        rest = {name: value for name, value in body.items() if name != field}
        removed = (200, 404) if (path, field) in OPTIONAL else (422,)
        content = json.dumps(rest).encode()
        yield Request("field removed", field, path, content, removed, field)
        renamed = json.dumps(rest | {field.upper(): body[field]}).encode()
        yield Request("field renamed", field, path, renamed, (422,), None)
        for name, value in VALUES.items():
            status = (200, 404) if name in fitting else (422,)
            content = json.dumps(body | {field: value}).encode()
            yield Request(
                "field of another type", f"{field} is {name}", path, content, status, field
            )
        for name, value in (("text", LONG), ("list", [PEAR] * 10_000), ("list of texts", [LONG])):
            content = json.dumps(body | {field: value}).encode()
            yield Request("huge field", f"{field} is a huge {name}", path, content, (422,), field)
        content = json.dumps(body | {field: "x" * 2**20}).encode()
        yield Request("huge body", field, path, content, (413,))


def twice() -> Iterator[Request]:
    def again(content: bytes, name: str, value: Any) -> bytes:
        field = f"{json.dumps(name)}: {json.dumps(value)}"
        return b"{%s, %s" % (field.encode(), content[1:])

    for (path, field), fitting in FITTING.items():
        for name in ("the same", *fitting):
            value = VALUES.get(name, WHOLE[path][field])
            content = again(json.dumps(WHOLE[path]).encode(), field, value)
            yield Request("field given twice", f"{field}, {name}", path, content, (422,), field)
        escaped = content.replace(
            field.encode(), b"\\u%04x%s" % (ord(field[0]), field[1:].encode()), 1
        )
        yield Request("field given twice", f"{field}, escaped", path, escaped, (422,), field)
    for feature, value in CONTEXT.items():
        context = again(json.dumps(CONTEXT).encode(), feature, value)
        rest = json.dumps(rank_body(context=...)).encode()
        content = b'{"context": %s, %s' % (context, rest[1:])
        field = f"context.{feature}"
        yield Request("field given twice", field, "rank", content, (422,), field)


def wrong_context() -> Iterator[Request]:
    for feature in CONTEXT:
        for name in ("true", "a fraction", *(name for name in VALUES if "list of" in name)):
            content = json.dumps(rank_body(context=CONTEXT | {feature: VALUES[name]})).encode()
            path = f"context.{feature}"
            yield Request("context", f"{feature} is {name}", "rank", content, (422,), path)
        rest = {key: value for key, value in CONTEXT.items() if key != feature}
        content = json.dumps(rank_body(context=rest)).encode()
        yield Request("context", f"no {feature}", "rank", content, (422,), f"context.{feature}")
    content = json.dumps(rank_body(context=CONTEXT | {"x" * 5000: 1})).encode()
    yield Request("context", "a long unknown name", "rank", content, (422,), "context.")


def wrong_heads() -> Iterator[Request]:
    content = json.dumps(WHOLE["rank"]).encode()
    for kind in (
        "",
        "text/plain",
        "application/xml",
        "application/jsonp",
        "json",
        "*/*",
        "a" * 9000,
    ):
        headers = (("Content-Type", kind),)
        yield Request("header", f"type {kind[:20]}", "rank", content, (415,), headers=headers)
    for length in ("-1", "1e9", "x", "9" * 5000, "99999999999999999999", "1048577"):
        headers = (*JSON.items(), ("Content-Length", length))
        status = (413,) if length.isdecimal() else (200,)
        yield Request("header", f"length {length[:20]}", "rank", content, status, headers=headers)
    both = (*JSON.items(), ("Transfer-Encoding", "chunked"), ("Content-Length", "4"))
    yield Request("header", "two lengths", "rank", content, (400,), headers=both)
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"):
        for path in WHOLE:
            yield Request("method", method, path, b"", (405,), method=method)
    for path in (
        "rank/",
        "rank//",
        "Rank",
        "ranks",
        "..%2frank",
        "rank%00",
        "rank;x",
        "x" * 5000,
        "%ff",
    ):
        yield Request("path", path[:20], path, content, (404,))


REQUESTS = [*malformed(), *wrong_fields(), *twice(), *wrong_context(), *wrong_heads()]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    data = small_dataset.write(folder / "data")
    server = Server(
        untrained_run.write(folder / "run", data, model="base_model", buckets=())
    ).warm()
    options = dataclasses.replace(server.options, max_body=2**20)
    server.application = Application(options, server.current, server.batcher, server.metrics)
    yield server
    server.end()


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_a_request_gets_its_status_and_names_its_field(request_, server, record_property) -> None:
    record_property("fault", f"serve: {request_.kind}")
    url = f"/v1/{request_.path}"
    headers = list(request_.headers)
    (answer,) = server.run_calls(
        lambda client: client.request(
            request_.method, url, content=request_.content, headers=headers
        )
    )
    assert answer.status_code in request_.status, answer.text
    if request_.method == "HEAD" or answer.status_code == 200:
        return
    failure = answer.json()
    assert failure.keys() == {"error", "field"}
    assert "Traceback" not in answer.text
    assert len(answer.content) < 1_000
    if answer.status_code == 422 and request_.field is not None:
        assert failure["field"].startswith(request_.field), failure


AUTHORIZATIONS = (
    None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN.upper()}", f"Bearer  x {TOKEN}",
    "Bearer " + "x" * 50_000, "Bearer \xff",
)  # fmt: skip


@pytest.mark.parametrize("value", AUTHORIZATIONS)
@pytest.mark.parametrize("path", ["/v1/rank", "/v1/remember", "/metrics"])
def test_a_wrong_token_opens_nothing(value, path, server, record_property) -> None:
    record_property("fault", "serve: token")
    closed = Application(server.options, server.current, server.batcher, server.metrics, TOKEN)
    opened, server.application = server.application, closed
    try:
        headers = {} if value is None else {"Authorization": value.encode("latin-1")}
        answer = server.post(path, rank_body(), headers=headers)
        assert (answer.status_code, answer.json()["field"]) == (401, None)
    finally:
        server.application = opened


def test_the_server_ranks_after_all_of_them(server) -> None:
    assert server.post("/v1/rank", rank_body()).status_code == 200
    assert server.metric("dien_queue_depth") == 0
    assert server.metric("dien_remembered_users") <= 3
