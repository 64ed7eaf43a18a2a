"""Files that are written completely or not at all, and outputs that are no files."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from support.holder import held

from dien_jax.errors import UserError
from dien_jax.utils.files import atomic_path, check_out, locked, partial_folder


def write(file: Path, text: str = "new") -> None:
    with atomic_path(file) as path:
        path.write_text(text)


def test_file_is_replaced_when_the_block_ends_unless_by_an_error(tmp_path):
    file = tmp_path / "out.csv"
    file.write_text("old")
    with pytest.raises(TypeError), atomic_path(file) as path, path.open("w") as stream:
        stream.writelines(["half", None])
    with atomic_path(file) as path:
        path.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_link_stays_and_its_file_is_replaced(tmp_path):
    file, link = tmp_path / "out.csv", tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(file)
    write(link)
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert list(link.parent.iterdir()) == [link]


def test_device_is_written_into(tmp_path):
    before = Path(os.devnull).stat()
    write(Path(os.devnull))
    after = Path(os.devnull).stat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    with atomic_path(Path("/dev/null")) as path:
        assert path == Path("/dev/null")


def test_standard_output_is_written_into_and_keeps_what_else_is_written(tmp_path):
    code = (
        "from pathlib import Path; from dien_jax.utils.files import write_text\n"
        "write_text(Path('/dev/stdout'), 'new')\n"
        "print(', and more', flush=True)"
    )
    with (tmp_path / "out").open("ab") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    piped = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert piped.stdout == b"new, and more\n"
    assert (tmp_path / "out").read_text() == "new, and more\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_partial_files_of_killed_processes_are_removed_and_others_stay(tmp_path):
    file = tmp_path / "out.csv"
    others = [tmp_path / ".out.csv.partial-x", tmp_path / ".other.csv.partial-7"]
    for partial in (tmp_path / ".out.csv.partial-7", *others):
        partial.touch()
    write(file)
    assert set(tmp_path.iterdir()) == {file, *others}


def test_second_writer_in_the_same_process_is_refused(tmp_path):
    file = tmp_path / "out.csv"
    problem = f"is being written by process {os.getpid()}"
    with atomic_path(file) as path:
        with pytest.raises(UserError, match=problem):
            write(file)
        path.write_text("first")
    assert file.read_text() == "first"


def test_link_in_the_place_of_the_partial_file_is_not_followed(tmp_path):
    file, victim = tmp_path / "out.csv", tmp_path / "victim"
    victim.write_text("theirs")
    (tmp_path / f".out.csv.partial-{os.getpid()}").symlink_to(victim)
    write(file)
    assert (victim.read_text(), file.read_text()) == ("theirs", "new")
    assert not file.is_symlink()


def test_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    file = tmp_path / ("n" * 250)
    write(file)
    assert file.read_text() == "new"


def test_lock_keeps_others_out_and_that_of_a_killed_process_is_free(tmp_path):
    with held(tmp_path, "locked") as holder:
        problem = f"--out x is in use by process {holder}; wait until it ends"
        with pytest.raises(UserError, match=problem), locked(tmp_path, "--out x"):
            pass
    with locked(tmp_path, "--out x"):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("kept")
    (tmp_path / ".lock").symlink_to("other")
    with pytest.raises(UserError, match=r"\.lock cannot be written: "), locked(tmp_path, "it"):
        pass
    assert (tmp_path / "other").read_text() == "kept"


def test_partial_folders_are_removed_and_those_of_this_process_stay(tmp_path):
    target = tmp_path / "data [1]"
    left = [tmp_path / f".data [1].partial-{end}" for end in ("7", "work-7", os.getpid())]
    for folder in left:
        (folder / "inner").mkdir(parents=True)
    with partial_folder(target, "work-") as own:
        assert list(tmp_path.iterdir()) == [own]
        with partial_folder(target) as second:
            assert set(tmp_path.iterdir()) == {own, second}
    assert list(tmp_path.iterdir()) == []


def test_new_parents_of_a_partial_folder_are_removed_unless_they_hold_the_target(tmp_path):
    with partial_folder(tmp_path / "a" / "b" / "data"):
        pass
    assert list(tmp_path.iterdir()) == []
    with partial_folder(tmp_path / "a" / "data") as partial:
        partial.rename(tmp_path / "a" / "data")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["data"]


def made(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def refusal(file: Path, *suffixes: str, **options) -> str:
    with pytest.raises(UserError) as refused:
        check_out(file, *suffixes, is_ours=b"ours", **options)
    return str(refused.value)


def test_file_that_cannot_be_recognised_is_not_replaced(tmp_path):
    damaged = Mock(side_effect=RuntimeError("cannot be read"))
    with pytest.raises(UserError, match="give --overwrite"):
        check_out(made(tmp_path / "out", "?"), is_ours=damaged)


def test_input_is_never_replaced_by_any_of_its_names(tmp_path):
    file, link = made(tmp_path / "in", "ours"), tmp_path / "link"
    link.symlink_to(file)
    (tmp_path / "hard").hardlink_to(file)
    for name in ("in", "link", "hard", "./in"):
        options = {"overwrite": True, "inputs": [None, file]}
        assert "it is an input" in refusal(tmp_path / name, **options)


def test_file_in_a_folder_that_is_read_is_replaced_only_if_it_is_ours(tmp_path):
    theirs, ours = made(tmp_path / "run" / "a", "theirs"), made(tmp_path / "run" / "b", "ours")
    inputs = [tmp_path / "run"]
    problem = f"it is a file of {tmp_path / 'run'}, which is read"
    assert problem in refusal(theirs, overwrite=True, inputs=inputs)
    for file in (ours, tmp_path / "run" / "new"):
        check_out(file, is_ours=b"ours", inputs=inputs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/out", "there is no folder"),
        ("loop", "Too many levels of symbolic links"),
        ("lost", "there is no folder"),
    ],
)
def test_name_that_cannot_be_written_is_refused(tmp_path, name, message):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere" / "out")
    assert f"{name} cannot be written: {message}" in refusal(tmp_path / name, overwrite=True)


def test_folder_without_permission_or_of_a_read_only_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    for flag, why in ((0, "Permission denied"), (os.ST_RDONLY, "Read-only file system")):
        monkeypatch.setattr(os, "statvfs", lambda path, flag=flag: SimpleNamespace(f_flag=flag))
        expected = f"cannot be written: {why}; name a file in another folder"
        assert expected in refusal(tmp_path / "out")
