"""Lines of logs: plain or gzip, and what happens to those that make no sense."""

import gzip
from pathlib import Path

import pytest

from dien_jax.errors import UserError
from dien_jax.utils.text_files import EXAMPLES, BadLines, read_lines, sha256

TEXT = "one\ntwo\r\n\nf\u00fcnf"


@pytest.mark.parametrize("name", ["log.txt", "log.txt.gz"])
@pytest.mark.parametrize("compress", [False, True])
def test_gzip_is_told_by_content_and_not_by_name(tmp_path: Path, name: str, compress: bool) -> None:
    file = tmp_path / name
    data = TEXT.encode()
    file.write_bytes(gzip.compress(data) if compress else data)
    bad = BadLines()
    assert list(read_lines(file, bad)) == [(1, "one"), (2, "two"), (3, ""), (4, "f\u00fcnf")]
    assert bad.count == 0


def test_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"\xef\xbb\xbfuser\n")
    assert list(read_lines(file, BadLines())) == [(1, "user")]


def test_lines_that_are_not_text_are_counted_and_left_out(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"good\n\xff\xfe\nze\0ro\nlast\n")
    bad = BadLines()
    assert list(read_lines(file, bad)) == [(1, "good"), (4, "last")]
    assert (bad.count, bad.read) == (2, 4)
    assert bad.examples == [f"{file}:2: not UTF-8", f"{file}:3: holds a NUL byte"]


@pytest.mark.parametrize("compress", [False, True])
def test_empty_file_is_refused(tmp_path: Path, compress: bool) -> None:
    file = tmp_path / "log"
    file.write_bytes(gzip.compress(b"") if compress else b"")
    with pytest.raises(UserError, match=r"log: the file is empty"):
        list(read_lines(file, BadLines()))


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent cannot be read: No such file"):
        list(read_lines(tmp_path / "absent", BadLines()))
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        list(read_lines(tmp_path, BadLines()))


def test_truncated_and_damaged_gzip_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "log.gz"
    data = gzip.compress(b"".join(b"line %d\n" % number for number in range(10_000)))
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"log\.gz: the gzip stream is cut off or damaged after"):
        list(read_lines(file, BadLines()))
    file.write_bytes(data[:100] + bytes(100) + data[200:])
    with pytest.raises(UserError, match=r"log\.gz: the gzip stream is cut off or damaged after"):
        list(read_lines(file, BadLines()))
    file.write_bytes(data[:-8] + bytes(8))
    with pytest.raises(UserError, match=r"log\.gz: the gzip stream is cut off or damaged after"):
        list(read_lines(file, BadLines()))


def test_file_without_line_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dien_jax.utils.text_files.LONGEST_LINE", 1000)
    file = tmp_path / "rubbish"
    file.write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match=r"rubbish:1: not a text file"):
        list(read_lines(file, BadLines()))


def test_few_bad_lines_are_reported_and_many_refused() -> None:
    bad = BadLines()
    assert bad.check(100, 0.0) == []
    for number in range(1, 11):
        bad.add(Path("log"), number, "has 3 columns")
    report = bad.check(100, 0.1)
    assert report[0] == "10 of 100 lines are malformed and were left out:"
    assert report[1] == "  log:1: has 3 columns"
    assert report[-1] == "  and 5 more"
    assert len(report) == EXAMPLES + 2
    with pytest.raises(UserError, match=r"(?s)more than the allowed share of 0\.09 .*log:1: has 3"):
        bad.check(100, 0.09)


def test_sha256_is_of_the_file_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"abc")
    assert sha256(file).startswith("ba7816bf8f01cfea")
    with pytest.raises(UserError, match="absent"):
        sha256(tmp_path / "absent")
