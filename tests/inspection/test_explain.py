"""The command line of explain: texts, figures and errors."""

import struct
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from rich.cells import cell_len
from support import small_dataset, tiny_run, untrained_run
from support.long_example import long_example
from support.tiny_run import refused_by

from dien_jax import explain
from dien_jax.inference.ranker import Ranker
from dien_jax.inspection.example_view import draw_example, example_lines, ranking_lines
from dien_jax.inspection.examples import Inspector
from dien_jax.runs.trained import load_run
from dien_jax.utils.plots import new_figure, padded, save_picture, shortened

pytestmark = pytest.mark.long

PEAR = small_dataset.ITEMS[1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    data = tiny_run.write_data(folder / "data")
    return untrained_run.write(folder / "run", data, model="din", buckets=())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    data = small_dataset.write(folder / "data", timestamp=small_dataset.ints(5, 7, 7, 3, 9))
    return untrained_run.write(folder / "run", data, model="din", buckets=())


def shown(capfd, *arguments: object) -> tuple[str, str]:
    status = explain.main([str(argument) for argument in arguments])
    output = capfd.readouterr()
    assert status == 0, output.err
    return output.out, output.err


def test_example_is_shown_with_raw_ids_and_drawn(tiny, tmp_path, capfd):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "example.png"
    text, notes = shown(capfd, tiny, "--example", 3, "--out", picture)
    run = load_run(tiny)
    split = run.dataset.splits["valid"]
    item = run.dataset.vocabulary("item")[split.item[3]]
    assert text.startswith(f"valid example 3: user u{split.group[3]}, item {item} (")
    assert "click probability 0." in text
    assert "attention: weight of a behaviour" in text
    assert "din has no update gate" in text
    assert notes.splitlines()[-1] == f"figure: {picture}"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["example.png"]


def test_user_and_item_get_the_score_of_the_ranker(small, capfd):
    ranker = Ranker(small)
    context = {"device": "phone", "query": "q|r"}
    history = [PEAR, "back\\slash", "back\\slash"]
    [score] = ranker.rank(history, [PEAR], user="Ann", request_features=context).scores
    flags = ("--request-features", "device", "phone", "query", "q|r")
    text, notes = shown(capfd, small, "--user", "Ann", "--item", PEAR, *flags)
    heading = f"user Ann, item pear\\u000afig (fruit)\nclick probability {score:.4f} "
    assert f"{heading}(by counts, without reading the history, 0." in text
    assert "3 behaviours, oldest first" in text
    assert notes == ""


def test_what_reading_the_history_adds_is_the_score_beside_counts(small):
    trained = load_run(small)
    logit = jax.tree.map(jnp.zeros_like, trained.params["mlp"]["logit"])
    silent = {**trained.params, "mlp": {**trained.params["mlp"], "logit": logit}}
    alone = trained._replace(params=silent)
    [example], [without] = (Inspector(model).examples("train", [0]) for model in (trained, alone))
    assert example.by_counts == pytest.approx(without.probability, abs=1e-6)
    assert example.by_counts != pytest.approx(example.probability, abs=1e-3)


def test_ranking_of_a_user_has_the_items_in_the_order_of_the_ranker(tiny):
    trained = load_run(tiny)
    inspector = Inspector(trained)
    items, [example] = trained.dataset.vocabulary("item"), inspector.examples("test", [0])
    history = [behaviour.item for behaviour in example.behaviours]
    first, _, *rows = ranking_lines(inspector)
    assert first == f"History of {example.user}, oldest first: {', '.join(history)}."
    ranking = Ranker(tiny).rank(history, items[1:])
    best = [f"{place} {item} " for place, item in enumerate(ranking.ids, start=1)]
    expected = [*best[:5], best[-1]]
    assert [row.lstrip()[: len(e)] for row, e in zip(rows, expected, strict=True)] == expected


def test_missing_context_and_unknown_users_are_noted(small, capfd):
    text, notes = shown(
        capfd, small, "--user", "Bob", "--item", PEAR, "--request-features", "device", "tv"
    )
    assert "no behaviours: the history is empty" in text
    assert "note: no value for query; set it with --request-features" in notes
    assert "note: 1 value of features did not occur in training" in notes
    _, notes = shown(capfd, small, "--user", "Cid", "--item", PEAR)
    assert "note: user Cid did not occur in training" in notes


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "expected --example, or --user and --item; found none"),
        (("--user", "u1"), "expected --example, or --user and --item; found --user"),
        (("--item", "i2"), "expected --example, or --user and --item; found --item"),
        (("--example", 24), "example 24 does not exist: the valid split"),
        (("--example", -1), "has examples 0 to 23"),
        (("--user", "u", "--item", "i2"), "--user 'u' does not exist"),
        (("--user", "u1", "--item", "i22"), "--item 'i22' does not exist"),
        (("--user", "u1", "--item", ""), "the folder has 11 items, such as 'i"),
        (("--user", "u1", "--item", "i2", "--request-features", "hour", "3"), "no feature 'hour'"),
        (
            ("--example", 1, "--out", "picture.jpg"),
            "picture.jpg cannot be written: expected the name of a .png",
        ),
    ],
)
def test_mistakes_are_refused(tiny, capfd, flags, message):
    assert message in refused_by(explain.main, [tiny, *flags], capfd)


def test_pictures_without_matplotlib_are_refused_at_once(tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = refused_by(explain.main, [tiny, "--example", 1, "--out", tmp_path / "a.png"], capfd)
    assert "drawing a figure needs the extra 'plot' (matplotlib is not installed): pip" in told


def test_long_histories_of_long_ids_stay_in_their_columns():
    lines = example_lines(long_example(100), "category", "utf-8")
    assert "12 older left out" in lines[2]
    table = lines[4:]
    assert len(table) == 101
    assert max(map(cell_len, table)) < 110
    assert len({line.index("an-item-of-") for line in table[1:]}) == 1
    assert sum(" * " in line[:8] for line in table[1:]) == 14
    assert table[-1].split()[-1] == f"{long_example(100).measures['update'][-1]:.4f}"
    assert "█" * 8 in table[-1]
    plain = example_lines(long_example(100), "category", "ascii")
    assert "#" * 8 in plain[-1]
    "\n".join(plain[4:]).replace("…", "").encode("ascii")


def test_wide_characters_are_shortened_by_their_width():
    assert shortened("abcdefgh", 5) == "ab…gh"
    assert cell_len(shortened("漢字漢字漢字漢字", 7)) <= 7
    assert padded("漢字", 6) == "漢字  "


@pytest.mark.parametrize("length", [0, 1, 100])
def test_pictures_of_any_length_and_script_are_drawn(length, tmp_path):
    pytest.importorskip("matplotlib")
    figure = draw_example(long_example(length, "漢$字_"), "category")
    save_picture(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_a_picture_of_thousands_of_behaviours_is_scaled_to_what_is_drawn_and_shown(tmp_path):
    pytest.importorskip("matplotlib")
    figure, _ = new_figure(1.0, 700.0, columns=1)
    save_picture(figure, tmp_path / "a.png")
    width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    assert (width, height) == (93, 65535)
