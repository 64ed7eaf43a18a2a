"""Commands on terminals and for users of every kind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from support.programs import printed

from dien_jax.errors import UserError
from dien_jax.utils.files import user_cache

REPOSITORY = Path(__file__).parents[2]


def command(*arguments: str, path: str = "", **environment: str) -> subprocess.CompletedProcess:
    places = os.pathsep.join([path, str(REPOSITORY), str(REPOSITORY / "kernels")])
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | {"PYTHONPATH": places.lstrip(os.pathsep)} | environment,
        capture_output=True,
        check=False,
    )


@pytest.mark.long
def test_prepare_writes_what_the_encoding_lacks_as_escapes(tmp_path) -> None:
    rows = [f"ü{user},語{k % 5},{k}" for user in range(4) for k in range(5)]
    file = tmp_path / "lög.csv"
    file.write_text("\n".join(["user,item,timestamp", *rows, "ü1,語1,\x1b[31mé"]), encoding="utf-8")
    arguments = (str(file), "--out", str(tmp_path / "däta"), "--max-bad-share", "0.5")
    done = command("dien_jax.prepare", "interactions", *arguments, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"\\u001b[31m" in done.stdout
    assert rb"d\xe4ta" in done.stdout
    assert rb"l\xf6g.csv" in done.stderr
    assert done.stdout.isascii()
    assert done.stderr.isascii()


@pytest.mark.long
@pytest.mark.parametrize("name", ["dien_jax.evaluate", "dien_jax"])
def test_ctrl_c_while_modules_are_imported_leaves_no_traceback(name, tmp_path) -> None:
    kill = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    for module in ("tyro", "rich"):
        (tmp_path / f"{module}.py").write_text(kill)
    # A process that ignores it, as those that a shell puts in the background, passes that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = command(name, "--help", path=str(tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == b""


def test_a_program_that_imports_the_package_keeps_its_handler_of_ctrl_c() -> None:
    code = (
        "import signal; before = signal.getsignal(signal.SIGINT); import dien_jax; "
        "print(signal.getsignal(signal.SIGINT) is before)"
    )
    assert printed(code) == "True\n"


def test_the_cache_is_at_home_and_a_user_without_one_learns_what_to_set(monkeypatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/ann")
    assert user_cache() == Path("/home/ann/.cache/dien_jax")
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError("no home")))
    with pytest.raises(UserError, match=r"no home folder .* set HOME or XDG_CACHE_HOME"):
        user_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert user_cache() == Path("/elsewhere/dien_jax")
