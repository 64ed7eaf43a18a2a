"""The command line of preparing: help, mistakes, exit status, and what is left behind."""

import sys
from unittest.mock import Mock

import pytest
from support.programs import printed
from support.tiny_logs import write

from dien_jax.data.dataset import open_dataset
from dien_jax.preparation.pipeline import events as tables
from dien_jax.preparation.pipeline import write as writing
from dien_jax.preparation.pipeline.target_negatives import NegativeSampler
from dien_jax.prepare import SOURCES, main

pytestmark = pytest.mark.fast

LOG = "user,item,timestamp\n" + "".join(
    f"u{user},i{(time + user) % 9},{time}\n" for user in range(5) for time in range(5)
)


def test_the_summary_goes_to_standard_output_and_progress_to_standard_error(tmp_path, capsys):
    flags = ["--out", str(tmp_path / "data"), "--split", "by-user"]
    assert main(["interactions", str(write(tmp_path, LOG)), *flags]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == (
        "25 rows of 5 users and 9 items, times 0 to 4 (seconds), "
        "1970-01-01 00:00:00 to 1970-01-01 00:00:04 UTC"
    )
    assert lines[-1] == f"dataset folder: {tmp_path / 'data'}"
    assert err.startswith(f"preparing the dataset folder {tmp_path / 'data'} from interactions\n")
    assert "by-user split" in err
    assert "reading" in err
    assert "writing" in err
    assert open_dataset(tmp_path / "data").meta["split"]["policy"] == "by-user"


def test_simulated_data_come_by_the_same_command(tmp_path, capsys):
    assert main(["synthetic", "--out", str(tmp_path / "data"), "--users", "40"]) == 0
    assert len(open_dataset(tmp_path / "data").groups()) == 40
    assert capsys.readouterr().out.endswith(f"dataset folder: {tmp_path / 'data'}\n")


def test_help_without_a_source_lists_the_sources(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "usage: python -m dien_jax.prepare SOURCE [...] --out DIR" in out
    for name, (kind, _) in SOURCES.items():
        assert f"  {name}" in out
        assert kind.__doc__ in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: which source?"),
        (["interaction", "log.csv"], "error: unknown source 'interaction'; did you mean 'interac"),
    ],
)
def test_a_source_must_be_named(words, message, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert "interactions" in err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("Query interrupted")])
@pytest.mark.parametrize(
    ("module", "function"),
    [(tables, "_checked"), (NegativeSampler, "draw"), (writing, "_write_values")],
)
def test_ctrl_c_leaves_nothing_behind(tmp_path, capsys, monkeypatch, module, function, error):
    monkeypatch.setattr(module, function, Mock(side_effect=error))
    argv = ["interactions", str(write(tmp_path, LOG)), "--out", str(tmp_path / "a" / "b")]
    assert main(argv) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("interrupted; nothing was written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("module", ["ibis", "duckdb", "pyarrow"])
@pytest.mark.parametrize("source", sorted(SOURCES.keys() - {"authors", "synthetic"}))
def test_without_the_extra_it_says_what_to_install(tmp_path, capsys, monkeypatch, source, module):
    monkeypatch.setitem(sys.modules, module, None)
    file = str(write(tmp_path, LOG))
    files = {
        "amazon": ["--reviews", file, "--meta", file],
        "movielens": ["--name", "1m", "--from", file],
        "taobao": ["--from", file],
        "alimama": ["--from", file],
    }
    assert main([source, *files.get(source, [file]), "--out", str(tmp_path / "data")]) == 2
    err = capsys.readouterr().err
    assert f"error: preparing logs needs the extra 'data' ({module} is not installed)" in err
    assert "pip install 'dien_jax[data]'" in err


@pytest.mark.long
def test_sources_can_be_listed_without_the_extra():
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['ibis', 'duckdb', 'pyarrow', 'pandas']));"
        "from dien_jax.prepare import main; sys.exit(main(['--help']))"
    )
    assert "interactions" in printed(program)
