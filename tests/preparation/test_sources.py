"""Every source of logs: malformed lines, gzip, and files that are cut, empty or absent."""

import functools
import gzip

import pytest
from support.source_samples import SAMPLES
from support.tiny_logs import events_of

from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError
from dien_jax.prepare import SOURCES
from dien_jax.utils.text_files import EXAMPLES

pytestmark = pytest.mark.long

FILES = [(source, name) for source, sample in SAMPLES.items() for name in sample.files]
LINES = [
    (source, name, lines[start : start + EXAMPLES])
    for source, sample in SAMPLES.items()
    for name, lines in sample.bad.items()
    for start in range(0, len(lines), EXAMPLES)
]


def test_every_source_of_logs_has_a_sample():
    assert SAMPLES.keys() == SOURCES.keys() - {"synthetic"}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Return a function that gives the events of a sample, prepared once."""

    @functools.cache
    def events_of_sample(source):
        sample = SAMPLES[source]
        dataset, _ = sample.make(tmp_path_factory.mktemp(source))
        assert dataset.meta["source"]["name"] == source
        files = [sample.archive] if sample.archive else sample.files
        assert sorted(dataset.meta["source"]["files"]) == sorted(files)
        return events_of(dataset)

    return events_of_sample


@pytest.mark.parametrize(("source", "name", "lines"), LINES)
def test_malformed_lines_are_left_out_counted_and_shown(
    source, name, lines, clean, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    sample, folder = SAMPLES[source], tmp_path / "log"
    sample.write(folder, **{name: [line for line, _ in lines]})
    said = sample.prepare(sample.options(folder, out=tmp_path / "data", max_bad_share=0.6))
    first = str(sample.files[name]).count("\n") + 1
    for number, (_, reason) in enumerate(lines, first):
        start = f"  {sample.shown(folder, name)}:{number}: "
        (shown,) = [line for line in said if line.startswith(start)]
        assert shown.removeprefix(start).startswith(reason) or reason in shown
    assert any(f"{len(lines)} of " in line and "malformed and were left" in line for line in said)
    assert events_of(open_dataset(tmp_path / "data")) == clean(source)
    with pytest.raises(UserError, match=rf"{len(lines)} of .* malformed, more than the allowed"):
        sample.prepare(sample.options(folder, out=tmp_path / "other", max_bad_share=0.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "log"]


@pytest.mark.parametrize("source", sorted(SAMPLES.keys() - {"movielens"}))
def test_gzip_gives_the_same(source, clean, tmp_path):
    sample, folder = SAMPLES[source], tmp_path / "log"
    sample.write(folder)
    for name in sample.files:
        (folder / name).write_bytes(gzip.compress((folder / name).read_bytes()))
    sample.prepare(sample.options(folder, out=tmp_path / "data"))
    assert events_of(open_dataset(tmp_path / "data")) == clean(source)


@pytest.mark.parametrize(("source", "name"), FILES)
def test_a_file_that_is_cut_empty_or_absent_is_named(source, name, tmp_path):
    sample, folder = SAMPLES[source], tmp_path / "log"
    sample.write(folder)
    file = folder / (sample.archive or name)
    whole = file.read_bytes()
    cut = whole[: len(whole) // 2] if sample.archive else gzip.compress(whole * 40, mtime=0)[:-9]
    for content in (b"", cut, None):
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            sample.prepare(sample.options(folder, out=tmp_path / "data"))
        assert file.name in str(caught.value)
        assert len(str(caught.value)) < 500
        assert [path.name for path in tmp_path.iterdir()] == ["log"]
        file.touch()
