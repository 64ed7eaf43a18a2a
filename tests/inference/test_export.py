"""The file of an exported model: scores of its run, with this package and without, and damage."""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from support import small_dataset, untrained_run
from support.small_dataset import CONTEXT, ODD, PEAR, SLASH
from support.tiny_run import refused_by
from support.untrained_run import TOLERANCE

import dien_jax
from dien_jax import export
from dien_jax import prepare as prepare_command
from dien_jax.errors import UserError
from dien_jax.inference import export as inference_export
from dien_jax.inference import exported_programs
from dien_jax.inference.archive import read_archive
from dien_jax.runs.list_weights import ListWeights
from dien_jax.runs.trained import load_run

pytestmark = pytest.mark.long

PAGE = Path(__file__).parents[2] / "docs" / "export.md"

refused = functools.partial(refused_by, export.main)


def same(found, expected) -> None:
    assert found.ids == expected.ids
    assert found[2:] == expected[2:]
    np.testing.assert_allclose(found.scores, expected.scores, **TOLERANCE)


def test_the_command_tells_what_it_wrote_and_checked(data, tmp_path, monkeypatch, capsys) -> None:
    options = {"buckets": (), "statistics": False}
    run = untrained_run.write(tmp_path / "run", data, model="wide_deep", **options)
    (run / "model_card.md").write_text("# The card of the run")
    file = tmp_path / "out" / "model.dien"
    file.parent.mkdir()
    file.write_text("old")
    with monkeypatch.context() as patch:
        own = inference_export.run_scores
        patch.setattr(inference_export, "run_scores", lambda *given: own(*given) + 1e-3)
        told = refused([run, "--out", file, "--overwrite"], capsys)
    assert "the file's scores differ from the run's by 0.001, expected at most 1e-05" in told
    assert file.read_text() == "old"
    assert small_dataset.leftovers(file.parent) == ["model.dien"]
    assert export.main([str(run), "--out", str(file), "--overwrite"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["file"] == str(file)
    assert told["bytes"] == file.stat().st_size > 10_000
    assert (told["checked_rows"], told["checked_candidates"]) == (8, 4)
    assert told["largest_difference"] < 1e-6
    assert f"model: {file} (0." in captured.err
    assert zipfile.ZipFile(file).read("model_card.md") == b"# The card of the run"
    assert small_dataset.leftovers(file.parent) == ["model.dien"]


def test_a_model_whose_scores_depend_on_its_batch_exports(data, tmp_path) -> None:
    """Files of other members of the family are written above, and in ``test_score_table.py``."""
    authors = {"gates": "authors", "follow_authors": True, "statistics": False}
    run = untrained_run.write(tmp_path / "run", data, buckets=(), **authors)
    assert export.main([str(run), "--out", str(tmp_path / "model")]) == 0


def test_a_file_with_factors_ranks_as_its_run_and_has_one_table(tmp_path) -> None:
    data = small_dataset.write_wide(tmp_path / "data")
    run = untrained_run.write(tmp_path / "run", data, model="base_model", buckets=())
    weights = ListWeights(1, tower=0.5, rules=0.2, click_network=2.0, offset=0.7)
    weights.save(run)
    inference_export.export_run(run, tmp_path / "model.dien")
    ours, theirs = map(dien_jax.Ranker, (run, tmp_path / "model.dien"))
    given = ["i3", "i5", "i8"]
    asked = given, ["i1", "i40", "not an item", "i6"]
    same(theirs.rank(*asked), ours.rank(*asked))
    same(theirs.recommend(given, 60), listed := ours.recommend(given, 60))
    plain = dien_jax.Ranker(load_run(run)._replace(list_weights=None)).recommend(given, 60)
    assert listed.ids != plain.ids
    vectors = read_archive(tmp_path / "model.dien").weights["tables/factors/item/vectors"]
    assert (len(vectors), vectors.dtype) == (1, np.float16)


def test_a_file_ranks_as_its_run(run, exported) -> None:
    ours, theirs = dien_jax.Ranker(run), dien_jax.Ranker(exported)
    unknown = (["?", PEAR, "!"], [PEAR, "?", ODD], "Zoe", {"device": "fridge", "query": "q|?"})
    same(theirs.rank(*unknown), ours.rank(*unknown))
    many = [PEAR, SLASH, ODD] * 200  # more than one turn, and a program of its own
    same(theirs.rank([ODD], many, "Ann", CONTEXT), ours.rank([ODD], many, "Ann", CONTEXT))
    events = [PEAR, ODD, "?", SLASH, ODD, PEAR, SLASH]  # past every bucket, then past max_history
    theirs.remember("Ann", [])
    for event in events:
        theirs.observe("Ann", event)
    same(
        theirs.rank(None, [PEAR, SLASH, ODD], "Ann", CONTEXT),
        ours.rank(events, [PEAR, SLASH, ODD], "Ann", CONTEXT),
    )
    with pytest.raises(UserError, match="no feature 'devise'; did you mean 'device'"):
        theirs.rank([PEAR], [ODD], None, CONTEXT | {"devise": "x"})


def test_rows_and_steps_are_of_any_number(run, exported) -> None:
    trained, model = load_run(run), read_archive(exported)
    program = model.programs["score_rows"]
    assert program.platforms == ("cpu", "cuda", "tpu")
    batch = inference_export.random_batch(trained)
    longer = np.concatenate([batch.history, np.zeros((8, 17), np.int32)], axis=1)
    inputs = inference_export.row_arrays(
        batch._replace(history=longer)
    )  # a second chunk of the recurrence
    three = jax.tree.map(lambda array: array[:3], inputs)
    expected = inference_export.run_scores(trained, batch)[:3]
    found = jax.jit(program.call)(model.weights, three)
    np.testing.assert_allclose(found, expected, **TOLERANCE)
    assert len(set(expected.tolist())) == 3


def test_failures_of_built_in_modules_are_not_hidden(run, monkeypatch) -> None:
    def failing(*arguments, **options):
        raise RuntimeError("a fault")

    monkeypatch.setattr(exported_programs.export, "symbolic_shape", failing)
    with pytest.raises(RuntimeError, match="a fault"):
        exported_programs.make_exports(load_run(run))


def test_weights_are_there_once(run, exported) -> None:
    with zipfile.ZipFile(exported) as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
    params = load_run(run).params
    count = len(jax.tree.leaves(params))
    assert sum(name.startswith("weights/params/") for name in names) == count
    assert "vocabularies/category.json" not in names  # rows of items bring theirs
    described = manifest["programs"]["score_rows"]["inputs"]
    assert described["history"] == {"dtype": "int32", "shape": ["b", "t"]}
    assert described["columns"]["query"]["values"] == {"dtype": "int32", "shape": ["b", 2]}
    assert manifest["max_history"] == 6
    assert manifest["settings"]["model"]["evolution"] == "augru"


def test_mistakes_on_the_command_line_are_told(data, run, tmp_path, capsys) -> None:
    out = tmp_path / "model.dien"
    assert "must have another name than the model" in refused(
        [run, "--out", out, "--onnx", out], capsys
    )
    assert "--triton needs --onnx" in refused([run, "--out", out, "--triton", "m"], capsys)
    flags = [run, "--out", out, "--onnx", tmp_path / "model.onnx", "--triton"]
    assert "expected a folder, found a file" in refused([*flags, __file__], capsys)
    assert "is no model of a Triton server" in refused([*flags, data], capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("missing", "flags"), [("flatbuffers", []), ("jax2onnx", ["--onnx", "model.onnx"])]
)
def test_what_is_not_installed_is_told(missing, flags, run, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.chdir(tmp_path)
    told = refused([run, "--out", "model.dien", *flags], capsys)
    extra = "onnx" if flags else "export"
    assert f"({missing} is not installed): pip install 'dien_jax[{extra}]'" in told
    assert small_dataset.leftovers(tmp_path) == []


ALONE = """
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("dien_jax", "dien_kernels", "flax"):
            raise ImportError(f"{name} is not to be imported here")

sys.meta_path.insert(0, Refusal())
file = "model.dien"
"""


@pytest.mark.repository
def test_the_page_runs_and_its_middle_without_this_package(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(inference_export, "check_export", lambda *_: {})  # other tests have that
    folder = tmp_path / "folder"
    folder.mkdir()
    log = tmp_path / "log.csv"
    log.write_text(
        "user,item,timestamp,label,device\n"
        "Ann,pear,1,1,phone\nAnn,fig,2,0,phone\nBob,fig,3,1,desk\n"
        "Ann,fig,4,1,desk\nBob,pear,5,1,phone\nBob,plum,6,0,desk\n"
    )
    flags = ["--request-features", "device", "--valid-share", "0.2", "--test-share", "0.2"]
    data = tmp_path / "data"
    assert prepare_command.main(["impressions", str(log), "--out", str(data), *flags]) == 0
    run = untrained_run.write(tmp_path / "run", data, buckets=(), statistics=False)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    namespace = {"__name__": "page", "run": run, "folder": folder}
    exec(compile(blocks[0], PAGE.name, "exec"), namespace)

    if importlib.util.find_spec("jax2onnx"):
        more = ["--out", str(folder / "other.dien"), "--onnx", str(folder / "model.onnx")]
        assert export.main([str(run), *more]) == 0
        blocks[3] += "\nnp.testing.assert_allclose(onnx_scores, scores, 1e-5)\n"
    else:
        del blocks[3]
    tell = "\nprint(json.dumps([scores.tolist(), ranked.tolist()]))\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE + "\n".join(blocks[1:]) + tell],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scores, ranked = json.loads(done.stdout)

    ranker = dien_jax.Ranker(run)
    first = ranker.rank(["pear", "fig"], ["fig", "pear", "kiwi"], "Ann", {"device": "phone"})
    second = ranker.rank([], ["plum"], "Zoe", {"device": "desk"})
    of_item = dict(zip(first.ids, first.scores, strict=True))
    np.testing.assert_allclose(ranked, [of_item["fig"], of_item["pear"], of_item["kiwi"]], 2e-5)
    np.testing.assert_allclose(scores, [of_item["fig"], second.scores[0]], 2e-5)
    same(namespace["ranking"], first)
