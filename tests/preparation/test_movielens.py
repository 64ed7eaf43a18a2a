"""MovieLens archives in the form of each release: ratings, genres, users, and by name."""

import hashlib

import pytest
from support.source_samples import MOVIELENS, RATINGS
from support.tiny_logs import events_of, values_of
from support.web import web_server

from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError
from dien_jax.preparation.sources import movielens
from dien_jax.prepare import main

pytestmark = pytest.mark.long

FILES_CSV = {
    "ratings.csv": "userId,movieId,rating,timestamp\n"
    + "".join(f"{u},{m},{r - 0.5},{t}\n" for u, m, r, t in RATINGS),
    "movies.csv": "movieId,title,genres\n"
    '1,"American President, The (1995)",Comedy|Drama|Romance\n'
    "2,Nada (1995),(no genres listed)\n"
    '3,"Quote ""this"" (1995)",IMAX\n',
    "tags.csv": "not read",
}
LATER = MOVIELENS._replace(files=FILES_CSV, archive="ml-32m.zip")


def test_1m_has_double_colons_latin_1_and_users(tmp_path):
    dataset, _ = MOVIELENS.make(tmp_path)
    found = values_of(dataset, "items", "genres")
    assert (found["2"], found["3"], found["4"]) == (["Drama"], ["Film-Noir"], ["Action"])
    assert found["5"] == [], "not among the movies"
    for name, value in (("gender", "F"), ("age_group", "50"), ("occupation", "16")):
        assert values_of(dataset, "users", name)["2"] == value
    assert [len(items) for items in events_of(dataset).values()] == [5, 5, 5], "all are events"
    assert dataset.meta["split"]["policy"] == "last-event"
    source = dataset.meta["source"]
    assert (source["name"], source["set"], source["min_rating"]) == ("movielens", "1m", None)
    digest = hashlib.sha256((tmp_path / "log" / "ml-1m.zip").read_bytes()).hexdigest()
    assert source["files"] == {"ml-1m.zip": digest}


def test_later_sets_are_csv_with_quoted_titles_and_no_users(tmp_path):
    dataset, _ = LATER.make(tmp_path, name="32m", split="by-time", test_share=0.2, valid_share=0.0)
    found = values_of(dataset, "items", "genres")
    assert (found["1"], found["2"], found["3"]) == (["Comedy", "Drama", "Romance"], [], ["IMAX"])
    assert [feature.name for feature in dataset.schema.user] == ["user"]


def test_min_rating_keeps_ratings_from_there_on(tmp_path):
    dataset, summary = MOVIELENS.make(tmp_path, min_rating=3.0, split="by-user")
    assert [len(items) for items in events_of(dataset).values()] == [3, 3, 3]
    assert "6 of 15 ratings are below --min-rating 3 and were left out" in summary
    assert dataset.meta["source"]["min_rating"] == 3


def test_the_archive_of_another_set_is_told(tmp_path):
    options = {"name": "1m", "source": tmp_path / "log" / LATER.archive}
    with pytest.raises(UserError, match=r"holds no ml-1m/ratings.dat; its files are ml-32m/r"):
        LATER.make(tmp_path, **options)
    assert not (tmp_path / "data").exists()


def test_another_header_is_told(tmp_path):
    changed = LATER._replace(files={**FILES_CSV, "ratings.csv": "user,movie\n1,2\n"})
    expected = r"ratings\.csv:1: expected 'userId,movieId,rating,timestamp'"
    with pytest.raises(UserError, match=expected):
        changed.make(tmp_path, name="32m")


@pytest.fixture
def web(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with web_server() as server:
        monkeypatch.setattr(movielens, "FOLDER", server.url)
        yield server


def test_a_set_is_downloaded_by_name_unless_its_folder_exists(tmp_path, web, capsys):
    MOVIELENS.write(tmp_path / "log")
    web.content = (tmp_path / "log" / MOVIELENS.archive).read_bytes()
    command = ["movielens", "--name", "1m", "--out", str(tmp_path / "data")]
    assert main(command) == 0
    assert web.paths == ["/ml-1m.zip"]
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"dataset folder: {tmp_path / 'data'}"
    assert "MovieLens by GroupLens" in err
    assert f"{web.url}/ml-1m-README.txt" in err
    found = tmp_path / "cache" / "dien_jax" / "downloads" / "movielens" / "ml-1m.zip"
    assert found.read_bytes() == web.content
    dataset = open_dataset(tmp_path / "data")
    assert dataset.meta["source"]["files"]["ml-1m.zip"] == hashlib.sha256(web.content).hexdigest()
    found.unlink()
    assert main(command) == 2
    assert web.paths == ["/ml-1m.zip"]
