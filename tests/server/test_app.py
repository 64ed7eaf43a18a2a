"""Serving over HTTP: the ranker's responses, errors that name fields, and newer checkpoints."""

import asyncio
import dataclasses
import datetime
import json
import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.compilations import COMPILED
from support.http_server import (
    LIMITS,
    MAX_BATCH,
    TOKEN,
    Server,
    check_ranking,
    expected_ranking,
    rank_body,
    save_step,
)
from support.small_dataset import PEAR, SLASH

from dien_jax.data.schema import Feature, Schema
from dien_jax.inference.ranker import Ranker
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, CONFIG_FILE
from dien_jax.server import app as serve_app
from dien_jax.server.messages import request_decoders
from dien_jax.server.run import ServerOptions

ROOT = Path(__file__).parents[2]


def test_responses_equal_the_rankers_without_compilation(server, ranker) -> None:
    requests = [  # of every padded size that the limits allow
        rank_body(history=[PEAR, "?", SLASH] * (length // 3 + 1), candidates=[PEAR, SLASH] * count)
        for length in range(0, 7, 3)
        for count in range(1, 5)
    ]
    before = len(COMPILED)
    answers = server.post_all("/v1/rank", requests)
    assert len(COMPILED) == before
    for body, answer in zip(requests, answers, strict=True):
        check_ranking(answer, expected_ranking(ranker, body))
        assert answer.json()["checkpoint_step"] == 1


def test_a_list_is_the_rankers(server, ranker) -> None:
    body = {
        "request_features": {"device": "desk", "query": ["q"]},
        "history": [PEAR],
        "user": "Ann",
    }
    filters = {"n": 2, "exclude_history": False, "exclude": [SLASH] * 9, "at_most": {"category": 1}}
    in_floats = filters | {"n": 2.0, "at_most": {"category": 1.0}}
    limits = ({"kind": 1}, {"category": 2**31})
    wrong = [{"n": 0}, {"n": 1.5}, *({"at_most": limit} for limit in limits)]
    wrong.append({"history": None, "user": "Zoe"})
    bodies = (body, body | filters, *({**body, **change} for change in (in_floats, *wrong)))
    answers = server.post_all("/v1/recommend", bodies)
    for one, answer in zip(bodies[:2], answers, strict=False):
        expected = ranker.recommend(**one)
        found = answer.json()
        assert found["ids"] == [item.replace("\ud800", "\\ud800") for item in expected.ids]
        np.testing.assert_allclose(found["scores"], expected.scores, rtol=1e-4)
    assert answers[2].json() == answers[1].json()
    assert [answer.status_code for answer in answers[3:]] == [422] * 4 + [404]
    assert "whole number" in answers[4].json()["error"]


def test_waiting_requests_are_ranked_in_one_batch(server, ranker) -> None:
    before, requests = len(COMPILED), [rank_body(candidates=[PEAR, SLASH][: n + 1]) for n in (0, 1)]
    batches = server.metric("dien_batch_size_count")
    batched = server.metric("dien_batch_size_sum")
    go = server.hold()

    async def release(client) -> None:
        await server.has_waiting(6)
        go.set()

    answers = server.post_all("/v1/rank", requests * 3, release)[:-1]
    for body, answer in zip(requests * 3, answers, strict=True):
        check_ranking(answer, expected_ranking(ranker, body))
    assert server.metric("dien_batch_size_count") == batches + 6 / MAX_BATCH
    assert server.metric("dien_batch_size_sum") == batched + 6
    assert len(COMPILED) == before


def test_a_full_queue_answers_429_with_retry_after(run) -> None:
    small = Server(run, capacity=3).warm()
    go = small.hold()

    async def late(client) -> Any:
        await small.has_waiting(3)
        refused = [
            await client.post("/v1/rank", json=rank_body()),
            await client.post("/v1/observe", json={"user": 1, "event": PEAR}),
        ]
        go.set()
        return refused

    *answers, refused = small.post_all("/v1/rank", [rank_body()] * 3, late)
    assert [answer.status_code for answer in answers] == [200] * 3
    for answer in refused:
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"].startswith("the queue is full; try again in")
    assert small.post("/v1/rank", rank_body()).status_code == 200
    assert small.metric("dien_requests_total", path="/v1/rank", status="429") == 1
    small.end()


@pytest.mark.parametrize(
    ("path", "body", "status", "field", "error"),
    [
        ("rank", rank_body(candidates=[PEAR, 1.5]), 422, "candidates[1]", "a whole number"),
        ("remember", {"user": "a" * 1025, "history": []}, 422, "user", "length <= 1024"),
        ("rank", rank_body(history=...), 404, "user", "'Ann' is not remembered; give the history"),
        ("rank", rank_body(history=...), 404, "user", "--max-users there"),
        ("rank", rank_body(history=None, user=None), 422, None, "expected a history, items"),
        ("observe", {"user": "Eve", "event": PEAR}, 404, "user", "/v1/remember"),
    ],
)
def test_errors_name_the_field(path, body, status, field, error, server) -> None:
    answer = server.post(f"/v1/{path}", body)
    assert (answer.status_code, answer.json()["field"]) == (status, field)
    assert error in answer.json()["error"]


def test_malformed_requests_are_refused(server, monkeypatch) -> None:
    def posted(content: Any, kind: str = "application/json", **more: str) -> tuple[int, str]:
        headers = {"Content-Type": kind, **more}
        (answer,) = server.run_calls(lambda c: c.post("/v1/rank", content=content, headers=headers))
        return answer.status_code, answer.json().get("error", "")

    async def chunks(count: int, pause: float = 0.0) -> Any:
        for _ in range(count):
            await asyncio.sleep(pause)
            yield b" " * 100

    whole = json.dumps(rank_body()).encode()
    assert posted(whole, "Application/JSON; charset=utf-8") == (200, "")
    assert posted(b"") == (400, "the body is not JSON: it is empty")
    assert posted(chunks(21))[0] == 413
    compressed = posted(b"\x1f\x8b", **{"Content-Encoding": "gzip"})
    assert compressed == (415, "compressed bodies are not accepted")
    assert posted(whole, **{"Content-Encoding": "Identity"}) == (200, "")
    monkeypatch.setattr(serve_app, "BODY_SECONDS", 0.05)
    assert posted(chunks(9, 0.02)) == (408, "no complete body after 0 s")
    answer = server.get("/v1/rank")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    answer = server.get("/metrics/", headers={"Host": "elsewhere.test"})
    assert (answer.status_code, answer.json()["error"]) == (404, "Not Found")


def test_users_are_remembered_and_evicted(server, ranker) -> None:
    def ranked(user: Any) -> Any:
        return server.post("/v1/rank", rank_body(history=..., user=user))

    answer = server.post("/v1/remember", {"user": "Ann", "history": [PEAR]})
    assert answer.json() == {"user": "Ann", "remembered_users": 1}
    for count, event in enumerate([SLASH, "?", 17] * 2):
        assert server.post("/v1/observe", {"user": "Ann", "event": event}).status_code == 200
        history = [PEAR, *([SLASH, "?", 17] * 2)[: count + 1]]
        check_ranking(ranked("Ann"), expected_ranking(ranker, rank_body(history=history)))
    for user in (1, 2, 3):
        server.post("/v1/remember", {"user": user, "history": []})
    assert server.metric("dien_remembered_users") == 3
    assert ranked("Ann").status_code == 404
    assert ranked("3").status_code == 200


def test_a_failing_request_does_not_affect_its_batch(server, ranker, monkeypatch, caplog) -> None:
    real = Ranker.rank_many

    def rank_many(self, requests):
        if any(request.user == "boom" for request in requests):
            raise RuntimeError("boom")
        return real(self, requests)

    monkeypatch.setattr(Ranker, "rank_many", rank_many)
    go = server.hold()

    async def release(client) -> None:
        await server.has_waiting(3)
        go.set()

    requests = [rank_body(), rank_body(user="boom"), rank_body(candidates=[PEAR])]
    first, second, third, _ = server.post_all("/v1/rank", requests, release)
    check_ranking(first, expected_ranking(ranker, requests[0]))
    check_ranking(third, expected_ranking(ranker, requests[2]))
    assert second.status_code == 500
    assert second.json() == {"error": "internal server error", "field": None}
    assert "RuntimeError: boom" in caplog.text
    assert server.get("/healthz").json()["status"] == "ok"


def test_ranking_and_metrics_require_the_token(run) -> None:
    server = Server(run, token=TOKEN).warm()
    good = {"Authorization": f"Bearer {TOKEN}"}
    answer = server.post("/v1/rank", rank_body())
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer.json()["error"] == "the bearer token is missing or wrong"
    assert server.post("/v1/rank%0A", rank_body()).status_code == 404
    assert server.get("/metrics%0A").status_code == 404
    assert server.post("/v1/rank", rank_body(), headers=good).status_code == 200
    assert server.get("/metrics", headers=good).status_code == 200
    for path in ("/healthz", "/readyz", "/docs"):
        assert server.get(path).status_code == 200
    description = server.get("/openapi.json").json()
    assert description["paths"]["/v1/rank"]["post"]["security"] == [{"token": []}]
    assert "401" in description["paths"]["/metrics"]["get"]["responses"]
    assert "item 7" in str(description)  # made up: with a token the model's items are not shown
    assert "pear" not in str(description)
    server.end()


def test_readiness_before_warm_up_and_after_stop(run) -> None:
    server = Server(run)
    for answer in (server.get("/readyz"), server.post("/v1/rank", rank_body())):
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "compiling" in answer.text
    assert server.get("/healthz").status_code == 200
    server.warm()
    status = server.get("/readyz").json()
    written = (run / CHECKPOINTS_FOLDER / "1").stat().st_mtime
    assert abs(datetime.datetime.fromisoformat(status.pop("written")).timestamp() - written) < 1
    assert status == {"status": "ready", "model": run.name, "checkpoint_step": 1}
    assert abs(server.metric("dien_model_written_seconds") - written) < 1
    assert server.metric("dien_ready") == 1
    server.current.stop()
    answer = server.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
    assert server.metric("dien_ready") == 0
    assert server.post("/v1/rank", rank_body()).status_code == 200  # already accepted
    server.end()
    assert server.get("/healthz").status_code == 503


def test_requests_are_logged_as_json(server, monkeypatch, capsys) -> None:
    options = dataclasses.replace(server.options, log_requests=True)
    monkeypatch.setattr(server.application, "_options", options)
    for body in (rank_body(), rank_body(candidates=[])):
        server.post("/v1/rank", body)
    good, bad = map(json.loads, capsys.readouterr().err.splitlines())
    assert (good.keys() ^ bad.keys()) == {"error"}
    assert bad["error"].startswith("Expected 'array' of length >= 1")
    assert datetime.datetime.fromisoformat(bad["time"]).utcoffset() == datetime.timedelta(0)
    assert (bad["method"], bad["path"], bad["status"]) == ("POST", "/v1/rank", 422)


def test_metrics(server) -> None:
    def unknown() -> list[float]:
        kinds = ("history", "candidate", "value")
        return [server.metric("dien_unknown_ids_total", kind=kind) for kind in kinds]

    before, candidates = unknown(), server.metric("dien_candidates_total")
    body = rank_body(
        history=["?", PEAR, "!"], request_features={"device": "fridge", "query": "q|?"}
    )
    assert server.post("/v1/rank", body).status_code == 200
    assert np.subtract(unknown(), before).tolist() == [2, 1, 2]
    assert server.metric("dien_candidates_total") == candidates + 3
    assert server.metric("dien_checkpoint_step") == 1
    answer = server.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    for name in ("request_seconds", "queue_seconds", "batch_seconds"):
        assert f"# TYPE dien_{name} histogram" in answer.text
    assert 'dien_request_seconds_bucket{le="0.005",path="/v1/rank"}' in answer.text


@pytest.mark.repository
def test_alerts_and_panels_name_metrics_of_the_server(server) -> None:
    assert server.get("/healthz").status_code == 200
    text = server.get("/metrics").text
    for file in ("prometheus-alerts.yml", "grafana.json"):
        names = re.findall(r"dien_\w+", (ROOT / "deploy" / file).read_text())
        assert len(names) > 5
        assert not [name for name in names if f"\n{name}" not in text and name != "dien_jax"]


def test_openapi_has_the_models_features_and_its_page_loads_nothing(server) -> None:
    description = server.get("/openapi.json").json()
    schemas = description["components"]["schemas"]
    references = set(json.dumps(description).split('"#/components/schemas/')[1:])
    assert {text.partition('"')[0] for text in references} <= set(schemas)
    assert schemas["Rank"]["properties"]["candidates"]["maxItems"] == LIMITS["max_candidates"]
    assert schemas["RequestFeatures"]["required"] == ["device", "query"]
    for path, methods in description["paths"].items():
        if "post" in methods:
            body = methods["post"]["requestBody"]["content"]["application/json"]["example"]
            answer = server.post(path, body)
            assert (answer.status_code, answer.json().get("unknown_history", 0)) == (200, 0), path
    assert server.get("/").headers["Location"] == "/docs"
    assert "<pre>curl -s localhost:8000/v1/rank" in server.get("/docs").text
    html = server.get("http://ranking:8765/docs").text
    assert html.count("<pre>curl -s localhost:8765/") == len(description["paths"])
    assert "`" not in html
    assert html.count("<h2>") == len(description["paths"]) + 1
    operations = [one for path in description["paths"].values() for one in path.values()]
    assert "`" not in " ".join(one["summary"] for one in operations)  # plain text, not Markdown
    statuses = [status for operation in operations for status in operation["responses"]]
    assert re.findall(r"<tr><td>(\d+)<td>", html) == statuses
    assert "//" not in html.replace("<!doctype html>", "")


def test_request_types_of_all_feature_kinds() -> None:
    schema = Schema(
        (Feature("item", "categorical", size=4),),
        (Feature("user", "categorical", size=3),),
        (Feature("price-class", "numeric", mean=1.0, deviation=2.0),),
    )
    options = ServerOptions(Path("run"), **LIMITS)
    reader = request_decoders(schema, options)["rank"]
    body = b'{"candidates": [1], "request_features": {"price-class": %s}}'
    assert reader.decode(body % b"1.5").request_features.f0 == 1.5
    for wrong, error in ((b'"1.5"', "got `str`"), (b"1e39", "<= 3.4")):
        with pytest.raises(ValueError, match=error):
            reader.decode(body % wrong)
    bare = Schema(schema.item, schema.user)
    reader = request_decoders(bare, options)["rank"]
    assert reader.decode(b'{"candidates": [1]}').request_features is None
    assert reader.decode(b'{"candidates": [1], "request_features": {}}').candidates == [1]


@pytest.mark.long
def test_a_newer_checkpoint_is_used_and_other_features_are_not(
    run, tmp_path, caplog, capsys
) -> None:
    """`test_under_load.py` has requests meanwhile, `tests/faults/test_changes.py` damaged files."""
    copy, link = tmp_path / "next2", tmp_path / "current"
    shutil.copytree(run, copy)
    link.symlink_to(copy)
    server = Server(link).warm()
    server.post("/v1/remember", {"user": "Ann", "history": [PEAR, "?"]})
    remembered = rank_body(history=...)
    assert not server.current.update(server.batcher)
    save_step(copy, 2)
    before = len(COMPILED)
    assert server.current.update(server.batcher)
    answer = server.post("/v1/rank", remembered)
    assert len(COMPILED) == before  # programs of the old model are reused
    check_ranking(answer, expected_ranking(Ranker(copy), rank_body(history=[PEAR, "?"])))
    status = server.get("/readyz").json()
    assert (status["status"], status["model"], status["checkpoint_step"]) == ("ready", "next2", 2)
    assert server.metric("dien_reloads_total", result="ok") == 1

    schema = server.current.served.ranker.schema
    server.current.served.ranker.schema = dataclasses.replace(schema, request=())
    assert not server.current.update(server.batcher, force=True)
    error = server.get("/readyz").json()["reload_error"]
    assert error.startswith("requests have the features none; the new model expects device")
    served = server.current.served.ranker
    served.schema = dataclasses.replace(
        schema, item=(*schema.item, Feature("aisle", "categorical", size=2))
    )
    assert not server.current.update(server.batcher, force=True)
    error = server.get("/readyz").json()["reload_error"]
    assert error.startswith("at_most of requests may name aisle, which is no category")
    served.schema = dataclasses.replace(schema, request=())
    os.utime(copy / CONFIG_FILE)  # another version, which is refused once it is loaded
    capsys.readouterr()
    caplog.clear()
    for _ in range(2):
        assert not server.current.update(server.batcher)
    assert capsys.readouterr().err.count("loading") == 1
    assert caplog.text.count("reload failed, model kept: requests have the features") == 1
    assert server.metric("dien_reloads_total", result="failed") == 4
    server.current._options = dataclasses.replace(server.options, accept_other_features=True)
    with caplog.at_level(logging.INFO, "dien_jax.server"):
        assert server.current.update(server.batcher, force=True)
    line = "reloaded: checkpoint 2 of next2, written .*Z, is in use; request features .* none$"
    assert re.search(line, caplog.text, re.M)
    assert server.current.served.ranker.schema == schema

    save_step(copy, 3)
    server.current.request_reload()  # as SIGHUP does
    until = time.monotonic() + 60
    while server.get("/readyz").json()["checkpoint_step"] != 3 and time.monotonic() < until:
        time.sleep(0.02)
    assert server.post("/v1/rank", remembered).json()["checkpoint_step"] == 3
    link.unlink()
    link.symlink_to(run)
    assert server.current.update(server.batcher)
    assert server.get("/readyz").json()["model"] == run.name
    server.end()
