"""Requests over HTTP that no model should see: each has its status and names its field."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from support import small_dataset, untrained_run
from support.http_server import TOKEN, Server, rank_body
from support.small_dataset import CONTEXT, PEAR, SLASH

from dien_jax.server.app import Application

pytestmark = pytest.mark.long
WHOLE: dict[str, dict[str, Any]] = {
    "rank": rank_body(),
    "remember": {"user": "Ann", "history": [PEAR, SLASH]},
    "observe": {"user": "Ann", "event": PEAR},
}
TEXTS = ("a text", "a whole number")
FITTING: dict[tuple[str, str], tuple[str, ...]] = {
    ("rank", "candidates"): (),
    ("rank", "history"): ("null", "an empty list", "nothing"),
    ("rank", "user"): ("null", *TEXTS, "an empty text", "nothing"),
    ("rank", "request_features"): (),
    ("remember", "user"): TEXTS,
    ("remember", "history"): ("an empty list",),
    ("observe", "user"): TEXTS,
    ("observe", "event"): TEXTS,
}
"""Changes of :data:`VALUES` that a field may have."""
VALUES: dict[str, Any] = {
    "nothing": ..., "null": None, "true": True, "a fraction": 1.5, "a text": "x",
    "a whole number": 7, "an empty list": [], "a list of lists": [[]], "a list of null": [None],
    "an object": {}, "an empty text": "", "an empty text in a list": [""],
    "a huge text": "x" * 100_000, "a huge list": [PEAR] * 10_000,
}  # fmt: skip
MALFORMED = (
    b"", b'{"user": "pe', b'{"user": "pear",}', b"{'user': 'pear'}", b'{"user": NaN}',
    b'{"user": 007}', b"candidates=pear&user=Ann", b'\xef\xbb\xbf{"user": "pear"}',
    '{"user": "pear"}'.encode("utf-16"), b'{"user": "\xff\xfe"}', b'{"user": "\\ud800"}',
    b'{"user": "a\x00b"}', bytes(1000),
)  # fmt: skip
OF_NO_FORM = (
    b"[]", b"null", b'{"user": "pear"} {}', b'{"user": 1e400}', b'{"user": %s}' % (b"9" * 5000),
    b'{"user": ' + b"[" * 100_000,
)  # fmt: skip
TYPE, LENGTH = "Content-Type", "Content-Length"
JSON = {TYPE: "application/json"}


class Request(NamedTuple):
    """A request, the statuses that it may get, and the start of the field that is named."""

    path: str
    content: bytes
    status: tuple[int, ...]
    field: str | None = None
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = tuple(JSON.items())

    def __str__(self) -> str:
        about = f"{self.method} {self.path[:20]} {self.headers[-1][1][:20]} {self.field}"
        return f"{about} {len(self.content)} {self.content[:40]!r}"


def of_fields() -> Iterator[Request]:
    """Yield requests with a field that is missing, renamed or of another value."""
    for (path, field), fitting in FITTING.items():
        body = WHOLE[path]
        rest = {name: value for name, value in body.items() if name != field}
        for name, value in VALUES.items():
            content = json.dumps(rest if value is ... else body | {field: value}).encode()
            yield Request(path, content, (200, 404) if name in fitting else (422,), field)
        yield Request(path, json.dumps(rest | {field.upper(): body[field]}).encode(), (422,))
    yield Request("rank", json.dumps(rank_body(user="x" * 2**20)).encode(), (413,))
    for feature in CONTEXT:
        changes = [CONTEXT | {feature: VALUES[name]} for name in ("true", "a list of lists")]
        changes += [{key: value for key, value in CONTEXT.items() if key != feature}]
        for context in changes:
            content = json.dumps(rank_body(request_features=context)).encode()
            yield Request("rank", content, (422,), f"request_features.{feature}")
    unknown = json.dumps(rank_body(request_features=CONTEXT | {"x" * 5000: 1})).encode()
    yield Request("rank", unknown, (422,), "request_features.")


def of_heads() -> Iterator[Request]:
    """Yield requests whose head is wrong."""
    content = json.dumps(WHOLE["rank"]).encode()
    for kind in ("", "text/plain", "application/jsonp", "a" * 9000):
        yield Request("rank", content, (415,), headers=((TYPE, kind),))
    for length, status in {"-1": 200, "x": 200, "9" * 5000: 413, "1048577": 413}.items():
        yield Request("rank", content, (status,), headers=(*JSON.items(), (LENGTH, length)))
    both = (*JSON.items(), ("Transfer-Encoding", "chunked"), (LENGTH, "4"))
    yield Request("rank", content, (400,), headers=both)
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "HEAD", "BREW"):
        yield Request("rank", b"", (405,), method=method)
    for path in ("rank/", "Rank", "..%2frank", "rank%00", "x" * 5000, "%ff"):
        yield Request(path, content, (404,))


REQUESTS = [
    *(Request(path, content, (400,)) for path in WHOLE for content in MALFORMED),
    *(Request(path, content, (400, 422)) for path in WHOLE for content in OF_NO_FORM),
    *of_fields(),
    *of_heads(),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    data = small_dataset.write(folder / "data")
    run = untrained_run.write(folder / "run", data, model="base_model", buckets=())
    server = Server(run).warm()
    options = dataclasses.replace(server.options, max_body=2**20)
    server.application = Application(options, server.current, server.batcher, server.metrics)
    yield server
    server.end()


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_a_request_gets_its_status_and_names_its_field(request_, server) -> None:
    line = (request_.method, f"/v1/{request_.path}")
    about = {"content": request_.content, "headers": list(request_.headers)}
    (answer,) = server.run_calls(lambda client: client.request(*line, **about))
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
    *(None, "", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN.upper()}"),
    *("Bearer " + "x" * 50_000, "Bearer \xff"),
)


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/remember", "/metrics"])
def test_a_wrong_token_opens_nothing(path, server, monkeypatch) -> None:
    closed = Application(server.options, server.current, server.batcher, server.metrics, TOKEN)
    monkeypatch.setattr(server, "application", closed)
    for value in AUTHORIZATIONS:
        headers = {} if value is None else {"Authorization": value.encode("latin-1")}
        answer = server.post(path, rank_body(), headers=headers)
        assert (answer.status_code, answer.json()["field"]) == (401, None), value


def test_the_server_ranks_after_all_of_them(server) -> None:
    assert server.post("/v1/rank", rank_body()).status_code == 200
    assert server.metric("dien_queue_depth") == 0
    assert server.metric("dien_remembered_users") <= 3
