"""The one rule of outputs: what is not of the same command is not replaced."""

import os
from pathlib import Path

import pytest

from dien_jax.errors import UserError
from dien_jax.utils.files import check_out, starts_with


def is_ours(file: Path) -> bool:
    return starts_with(file, b"ours")


def made(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def refusal(file: Path, *suffixes: str, **options) -> str:
    with pytest.raises(UserError) as refused:
        check_out(file, *suffixes, is_ours=is_ours, **options)
    return str(refused.value)


@pytest.mark.parametrize("text", ["ours, of an earlier command", ""])
def test_file_of_the_same_command_and_an_empty_one_may_be_replaced(tmp_path, text):
    check_out(made(tmp_path / "out", text), is_ours=is_ours)


def test_file_that_cannot_be_recognised_is_not_replaced(tmp_path):
    def is_damaged(file: Path) -> bool:
        raise RuntimeError("cannot be read")

    with pytest.raises(UserError, match="give --overwrite"):
        check_out(made(tmp_path / "out", "?"), is_ours=is_damaged)


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
        check_out(file, is_ours=is_ours, inputs=inputs)


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


def test_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert "cannot be written: Permission denied" in refusal(tmp_path / "out")
