"""The server's command line: errors, its address, the flags of its page, and files of deploy/."""

import asyncio
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import small_dataset, untrained_run

from dien_jax import serve as command
from dien_jax.data.dataset import open_dataset
from dien_jax.data.schema import Feature, Schema
from dien_jax.errors import UserError
from dien_jax.runs.folder import Run
from dien_jax.server.messages import request_decoders
from dien_jax.server.run import TOKEN_VARIABLE, ServerOptions, bind, serve

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("", "DIEN_JAX_TOKEN must be at least 16 printable ASCII characters"),
        ("0123456789abcdé", "got 15 characters (unset it to serve without a token)"),
        (None, "nowhere does not exist"),
    ],
)
def test_mistakes_give_one_line(token, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    if token is not None:
        monkeypatch.setenv(TOKEN_VARIABLE, token)
    assert command.main([str(tmp_path / "nowhere"), "--port", "0"]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1


def test_an_exported_file_needs_two_extras(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    (tmp_path / "model.dien").touch()
    needs = (
        "serving an exported file needs the extras 'serve,export' (flatbuffers is not installed)"
    )
    with pytest.raises(
        UserError, match=re.escape(f"{needs}: pip install 'dien_jax[serve,export]'")
    ):
        serve(ServerOptions(tmp_path / "model.dien", port=0))


@pytest.mark.parametrize(("implementation", "expected"), [("auto", ["kernels"]), ("xla", [])])
def test_native_kernels_are_compiled_while_the_run_is_read(
    implementation, expected, tmp_path, monkeypatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    calls = []
    monkeypatch.setattr("dien_kernels.load_native_in_background", lambda: calls.append("kernels"))
    config = untrained_run.config_of("dien", (), implementation=implementation)
    dataset = open_dataset(small_dataset.write(tmp_path / "data"))
    Run.create(preset="dien", seed=0, dataset=dataset, config=config).save(tmp_path / "run")
    with pytest.raises(UserError, match="has no evaluated checkpoint yet"):
        serve(ServerOptions(tmp_path / "run", port=0))
    assert calls == expected


def test_sighup_before_a_model_is_read_does_not_end_the_server() -> None:
    hang_up = "serve.serve = lambda options: os.kill(os.getpid(), signal.SIGHUP)"
    script = f"import os, signal; from dien_jax import serve; {hang_up}; exit(serve.main(['run']))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_two_servers_that_start_at_once_cannot_have_one_port() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: Address already in use"):
            bind("127.0.0.1", port)


def test_connections_have_no_delay() -> None:
    delays: list[int] = []

    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = writer.get_extra_info("socket")
        delays.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def connect() -> None:
        listener = bind("127.0.0.1", 0)
        async with await asyncio.start_server(answer, sock=listener):
            with socket.create_connection(listener.getsockname()):
                while not delays:
                    await asyncio.sleep(0.001)

    asyncio.run(connect())
    assert delays == [1]


@pytest.mark.repository
def test_flags_and_requests_of_the_serving_page() -> None:
    text = (ROOT / "docs/serving.md").read_text()
    flags = {f"--{name.replace('_', '-')}" for name in vars(command.Arguments(Path())) if name}
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= flags
    schema = Schema(
        (Feature("item", "categorical", size=4),), (Feature("user", "categorical", size=3),), ()
    )
    decoders = request_decoders(schema, ServerOptions(Path("run")))
    blocks = re.findall(r"-d '(\{.*?\})'", text, re.DOTALL)
    paths = re.findall(r"/v1/([a-z]+) ", text)
    assert len(blocks) >= 3
    for path, block in zip(paths, blocks, strict=False):
        decoders[path].decode(block.encode())


@pytest.mark.repository
def test_alerts_count_no_probe_and_pods_outlive_their_last_requests() -> None:
    yaml = pytest.importorskip("yaml")
    alerts = yaml.safe_load((ROOT / "deploy/prometheus-alerts.yml").read_text())["groups"][0]
    rules = {rule["alert"]: rule["expr"] for rule in alerts["rules"]}
    assert 'path=~"/v1/.*",status="500"' in rules["DienErrors"]
    deployment, _ = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    *_, drain = container["args"]
    (_, pause) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > int(pause) + int(drain)
    for probe, path in (("liveness", "healthz"), ("readiness", "readyz"), ("startup", "healthz")):
        assert container[f"{probe}Probe"]["httpGet"]["path"] == f"/{path}"
