"""A newer checkpoint replaces the served model; users stay remembered, and nothing compiles."""

import dataclasses
import os
import shutil
import time

import pytest

from dien_jax.inference.ranker import Ranker
from dien_jax.runs.folder import CHECKPOINTS_FOLDER
from dien_jax.server.current_model import model_version

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")

from support.compilations import COMPILED  # noqa: E402
from support.http_server import (  # noqa: E402
    PEAR,
    Server,
    check_ranking,
    expected_ranking,
    rank_body,
    save_step,
)

pytestmark = pytest.mark.long


def test_a_newer_checkpoint_is_used_and_a_damaged_one_is_not(run, tmp_path, caplog) -> None:
    """`test_under_load.py` has requests at the time of the replacement."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    server = Server(copy).warm()
    server.post("/v1/remember", {"user": "Ann", "history": [PEAR, "?"]})
    remembered = rank_body(history=...)
    assert not server.current.update(server.batcher)
    save_step(copy, 2)
    before = len(COMPILED)
    assert server.current.update(server.batcher)
    answer = server.post("/v1/rank", remembered)
    assert len(COMPILED) == before  # programs of the old model are reused
    check_ranking(answer, expected_ranking(Ranker(copy), rank_body(history=[PEAR, "?"])))
    assert server.get("/readyz").json() == {"status": "ready", "checkpoint_step": 2}
    assert server.metric("dien_reloads_total", result="ok") == 1

    schema = server.current.served.ranker.schema
    server.current.served.ranker.schema = dataclasses.replace(schema, context=())
    assert not server.current.update(server.batcher, force=True)
    error = server.get("/readyz").json()["reload_error"]
    assert error.startswith("requests have the context features none; the new model expects device")
    server.current.served.ranker.schema = schema

    save_step(copy, 3)
    kept = {file: file.read_bytes() for file in (copy / CHECKPOINTS_FOLDER / "3").rglob("*.ocdbt")}
    for file in kept:
        file.write_bytes(b"")
    for _ in range(2):
        assert not server.current.update(server.batcher)
    assert caplog.text.count("reload failed, model kept: cannot read the checkpoint") == 1
    assert server.metric("dien_reloads_total", result="failed") == 3
    assert server.post("/v1/rank", remembered).json()["checkpoint_step"] == 2
    for file, content in kept.items():
        file.write_bytes(content)
    server.current.request_reload()  # as SIGHUP does
    until = time.monotonic() + 60
    while server.get("/readyz").json()["checkpoint_step"] != 3 and time.monotonic() < until:
        time.sleep(0.02)
    assert server.post("/v1/rank", remembered).json()["checkpoint_step"] == 3
    server.end()


def test_the_version_of_an_exported_file_is_its_time(tmp_path) -> None:
    file = tmp_path / "model.dien"
    file.touch()
    before = model_version(file)
    os.utime(file, ns=(1, 1))
    assert model_version(file) != before
