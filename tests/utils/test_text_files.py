"""Lines of logs: plain or gzip, and what happens to those that make no sense."""

import gzip
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dien_jax.errors import UserError
from dien_jax.utils.text_files import EXAMPLES, LONGEST_LINE, BadLines, read_lines

TEXT = "one\ntwo\r\n\nf\u00fcnf"


@pytest.mark.parametrize("name", ["log.txt", "log.txt.gz"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_gzip_is_told_by_content_and_a_byte_order_mark_is_left_out(
    pack: Callable[[bytes], bytes], mark: bytes, name: str, tmp_path: Path
) -> None:
    file, bad = tmp_path / name, BadLines()
    file.write_bytes(pack(mark + TEXT.encode()))
    assert list(read_lines(file, bad)) == [(1, "one"), (2, "two"), (3, ""), (4, "f\u00fcnf")]
    assert bad.count == 0


def test_lines_that_are_not_text_are_counted_and_left_out(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"good\n\xff\xfe\nze\0ro\nlast\n")
    bad = BadLines()
    assert list(read_lines(file, bad)) == [(1, "good"), (4, "last")]
    assert (bad.count, bad.read) == (2, 4)
    assert bad.examples == [f"{file}:2: not UTF-8", f"{file}:3: holds a NUL byte"]


LINES = gzip.compress(b"".join(b"line %d\n" % number for number in range(10_000)))
EMPTY, CUT = "log: the file is empty", "log: the gzip stream is cut off or damaged after"
REFUSED = {
    "empty": (b"", EMPTY),
    "gzip of nothing": (gzip.compress(b""), EMPTY),
    "cut": (LINES[: len(LINES) // 2], CUT),
    "damaged": (LINES[:100] + bytes(100) + LINES[200:], CUT),
    "a wrong checksum": (LINES[:-8] + bytes(8), CUT),
    "no line ends": (b"x" * LONGEST_LINE, "log:1: not a text file"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_empty_cut_or_no_text_is_refused(content, message, tmp_path) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_lines(tmp_path / "log", BadLines()))


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


def zipped(file: Path, content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytearray:
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("log.csv", content)
    return bytearray(file.read_bytes())


def member(file: Path) -> list[tuple[int, str]]:
    return list(read_lines(file, BadLines(), member="log.csv"))


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_members_of_archives_are_read(compression: int, tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    zipped(file, b"one\ntwo\n", compression)
    assert member(file) == [(1, "one"), (2, "two")]


def test_a_member_that_claims_too_little_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    data = zipped(file, b"line\n" * 200_000)
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (100).to_bytes(4, "little")  # it claims 100 bytes
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"cut off or damaged after line \d+: Bad CRC"):
        member(file)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (8, 0x1, "log.csv: cannot be unpacked: File 'log.csv' is encrypted"),
        (10, 99, "log.csv: cannot be unpacked: That compression method is not supported"),
        (10, 12, "log.csv: the archive is cut off or damaged|cannot be read"),
        (10, 14, "log.csv: the archive is cut off or damaged"),
    ],
)
def test_members_that_cannot_be_unpacked_are_refused(place, value, expected, tmp_path) -> None:
    file = tmp_path / "a.zip"
    data = zipped(file, b"one\ntwo\n" * 1000)
    for entry, offset in ((data.index(b"PK\x01\x02"), place), (0, place - 2)):
        data[entry + offset : entry + offset + 2] = value.to_bytes(2, "little")
    file.write_bytes(data)
    with pytest.raises(UserError, match=expected):
        member(file)


@pytest.mark.parametrize("size", [400_000, 800_004])
def test_file_whose_size_changes_while_it_is_read_is_refused(size, tmp_path):
    file = tmp_path / "log.csv"
    file.write_bytes(b"a,1\n" * 200_000)
    lines = read_lines(file, BadLines())
    assert next(lines) == (1, "a,1")
    os.truncate(file, size)
    with pytest.raises(UserError, match=rf"log\.csv: its size changed from 800,000 to {size:,}"):
        list(lines)


def test_the_share_that_was_read_is_known_of_plain_text(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes("ä\r\nb\n".encode() * 3)
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    bad = BadLines()
    assert bad.share_of(plain) == 0
    shares = [bad.share_of(plain) for _ in read_lines(plain, bad)]
    assert shares == [size / 18 for size in (4, 6, 10, 12, 16, 18)]
    assert bad.share_of(packed) is None
    assert bad.share_of(tmp_path / "missing") is None
