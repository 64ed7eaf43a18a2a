"""The library of C++ kernels: compiled once, and every way in which that fails is survived."""

import os
import platform
import runpy
import stat
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
from dien_kernels import agreement, augru, choice, explain, load_native_in_background
from dien_kernels.backends import native
from dien_kernels.native import build, library
from support.programs import printed
from support.recurrences import operands

STATES = """
import sys; sys.path.insert(0, "tests")
from support.recurrences import call, operands
x, attention, weights, lengths, initial = operands("augru")
print(call("augru", x, attention, weights, lengths, initial, implementation=sys.argv[1])[1].sum())
"""


@pytest.fixture(autouse=True)
def no_library(tmp_path, monkeypatch):
    """Start as a process that has loaded none, of a package that brings none."""
    monkeypatch.setattr(library, "_outcome", None)
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "prebuilt")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DIEN_KERNELS_CACHE", str(folder))
    return folder


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("flags", "wish", "expected"),
    [
        ("fpu avx2 fma avx512f avx512dq avx512vl avx512bw", None, ["avx512"]),
        ("fpu avx2 fma avx512f avx512dq avx512vl avx512bw", "avx2", ["avx2"]),
        ("fpu avx2 fma avx512f", None, ["avx2"]),
        ("fpu avx2 fma", "avx512", ["avx2"]),
        ("fpu avx2", None, ["plain"]),
        (None, None, ["avx512", "avx2", "plain"]),
    ],
)
def test_the_widest_instruction_set_of_the_processor_is_compiled(
    flags, wish, expected, tmp_path, monkeypatch
):
    file = tmp_path / "cpuinfo"
    if flags is not None:
        file.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    monkeypatch.setattr(build, "CPU_INFO", file)
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("DIEN_KERNELS_ISA", raising=False)
    if wish is not None:
        monkeypatch.setenv("DIEN_KERNELS_ISA", wish)
    assert list(build.instruction_sets()) == expected


@pytest.mark.long
def test_a_library_without_kernels_for_the_processor_is_a_reason(
    tmp_path, empty_cache, monkeypatch
):
    monkeypatch.setattr(build, "instruction_sets", dict)  # none
    with pytest.raises(NotImplementedError, match="no kernels for this processor"):
        library.instruction_set()


@pytest.mark.long
def test_two_processes_compile_once_and_again_what_was_cut_short(tmp_path, empty_cache):
    log, compiler = tmp_path / "linked", build.compiler()[0]
    # It takes no time, and writes a line for each library that it links.
    text = f'case "$*" in *-shared*) echo linked >> {log};; esac\nexec {compiler} "$@" -O0'
    variables = {"CXX": str(script(tmp_path / "cxx", text))}
    start = [sys.executable, "-c", STATES, "native"]
    started = [
        subprocess.Popen(start, env=os.environ | variables, stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    results = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert log.read_text() == "linked\n"
    assert [file.suffix for file in sorted(empty_cache.iterdir())] == [".so", ".lock"]
    assert "compiling the native CPU kernels" in results[0][1] + results[1][1]
    (file,) = empty_cache.glob("*.so")
    file.write_bytes(file.read_bytes()[:1000])
    assert printed(STATES, "native", **variables) == results[0][0]
    assert log.read_text() == "linked\n" * 2


@pytest.fixture
def no_compilation(monkeypatch) -> None:
    """A file without content takes the place of what would be compiled."""

    def compile_library(command, folder, sets):
        (folder / "native.so").touch()
        return folder / "native.so"

    monkeypatch.setattr(build, "compile_library", compile_library)


@pytest.mark.parametrize("home", ["a file", "none"])
def test_without_a_folder_that_can_be_written_to_every_process_compiles(
    home, tmp_path, monkeypatch, no_compilation
):
    for name in ("DIEN_KERNELS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if home == "a file":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("DIEN_KERNELS_CACHE", str(tmp_path / "file" / "folder"))
    else:
        monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError("no home")))
    with build.library() as file:
        assert file.exists()
    assert not file.exists()
    outcome = agreement.Outcome(0.0, 1e-4, None)
    assert agreement.remembered("key", lambda: outcome) == outcome  # kept nowhere


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "[" * 100_000, '{"deviation": "0", "tolerance": 1.0, "error": null}',
     '{"deviation": NaN, "tolerance": 1.0, "error": null}', '{"tolerance": 1.0}', "a folder"],
)  # fmt: skip
def test_an_outcome_of_another_form_is_checked_again(content, empty_cache):
    file, outcome = empty_cache / "key.json", agreement.Outcome(0.5, 1.0, None)
    empty_cache.mkdir()
    file.mkdir() if content == "a folder" else file.write_text(content)
    found = agreement.remembered("key", lambda: outcome)
    assert (found.deviation, found.tolerance, found.error) == (0.5, 1.0, None)
    assert [entry.name for entry in empty_cache.iterdir()] == ["key.json"]
    if content != "a folder":
        assert agreement.remembered("key", lambda: None) == found


def test_a_broken_compiler_is_a_reason_and_leaves_nothing(tmp_path, empty_cache, monkeypatch):
    text = '[ "$1" = --version ] && exit 0\necho "error: no space in this compiler" >&2\nexit 1'
    monkeypatch.setenv("CXX", str(script(tmp_path / "cxx", text)))
    with pytest.raises(NotImplementedError, match="cxx failed: error: no space in this compiler"):
        native.BACKEND.identity()
    assert [file.name for file in empty_cache.iterdir()] == ["native.lock"]
    with pytest.raises(NotImplementedError, match="no space"):  # not tried again
        native.BACKEND.identity()


def test_what_a_killed_process_left_is_removed(empty_cache, no_compilation):
    left = empty_cache / f"{build.UNFINISHED}abc"
    left.mkdir(parents=True)
    (left / "kernels.o").write_bytes(b"half")
    with build.library() as file:
        assert sorted(entry.name for entry in empty_cache.iterdir()) == [file.name, "native.lock"]


def test_no_compiler_runs_on_after_an_exception(tmp_path):
    started = tmp_path / "started"
    slow = script(tmp_path / "slow", f"echo $$ >> {started}\nexec sleep 600")
    broken = script(tmp_path / "broken", f"while [ ! -s {started} ]; do :; done\nexit 1")
    with pytest.raises(build.BuildError, match="broken failed: exit status 1"):
        build._outputs([[str(broken)], [str(slow)]])
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


@pytest.mark.parametrize("allowed", ["0", "1"])
def test_loading_in_the_background_is_what_the_first_use_waits_for(allowed, monkeypatch):
    load = Mock(return_value=library._Library("plain", ""))
    monkeypatch.setattr(library, "_load", load)
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", allowed)
    load_native_in_background()
    for thread in threading.enumerate():
        if thread.name == "native kernels":
            thread.join()
    assert load.call_count == int(allowed)
    assert library.instruction_set() == "plain"
    load.assert_called_once()


def test_errors_in_the_background_are_those_of_the_first_use(empty_cache, monkeypatch, capfd):
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "1")
    monkeypatch.setenv("CXX", "/nowhere/cxx")
    load_native_in_background()
    with pytest.raises(NotImplementedError, match="the compiler /nowhere/cxx does not run"):
        library.instruction_set()
    assert capfd.readouterr().err == ""


@pytest.fixture
def no_compiler(empty_cache, monkeypatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build, "COMPILERS", ())
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)


def test_without_a_compiler_named_kernels_say_what_to_install_and_auto_takes_xla_with_one_line(
    no_compiler, monkeypatch, caplog
):
    x, attention, weights, lengths, _ = operands("augru")
    with pytest.raises(NotImplementedError, match=r"install g\+\+ or clang.*dien_jax\[native\]"):
        augru(x, attention, weights, lengths=lengths, implementation="native")
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "1")
    choice._log.cache_clear()
    for _ in range(2):
        found = explain("augru", batch=128, steps=100, hidden=36)
        assert found.implementation == "xla"
        assert "there is no C++ compiler" in found.reason
    (record,) = caplog.records
    assert "XLA runs instead of native: there is no C++ compiler: install" in record.getMessage()


def test_the_compiler_of_ziglang_is_the_last_choice(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build, "COMPILERS", ())
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: name)
    assert build.compiler() == [sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline"]
    monkeypatch.setenv("CXX", "ccache g++")
    assert build.compiler() == ["ccache", "g++"]


def edit_sources(folder: Path, monkeypatch) -> None:
    sources = folder / "src"
    sources.mkdir()
    for file in build.SOURCES.iterdir():
        (sources / file.name).write_bytes(file.read_bytes() + b"\n")
    monkeypatch.setattr(build, "SOURCES", sources)


def test_sources_flags_and_compiler_decide_the_name_of_the_library(tmp_path, monkeypatch):
    command, sets = build.compiler(), build.instruction_sets()
    names = [build._digest(command, sets)]
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DNOTHING"))
    names.append(build._digest(command, sets))
    edit_sources(tmp_path, monkeypatch)
    names.append(build._digest(command, sets))
    other = script(tmp_path / "cxx", 'echo "another version"')
    names += [build._digest([str(other)], sets), build._digest(command, {"other": ()})]
    assert len(set(names)) == 5
    assert build._digest(command, sets) == names[2]


@pytest.fixture
def shipped(monkeypatch) -> Path:
    """The library in the package, for this machine."""
    monkeypatch.delenv("CXX", raising=False)
    with build.library() as compiled:
        build.PREBUILT.mkdir()
        copy = build.PREBUILT / "copy"
        copy.write_bytes(compiled.read_bytes())
    name = build.prebuilt_name(sys.platform, platform.machine())
    return build.named_library(copy, build.PREBUILT, name)


@pytest.mark.long
def test_a_library_of_the_package_needs_no_compiler(shipped, no_compiler):
    with build.library() as file:
        assert file == shipped


@pytest.mark.long
@pytest.mark.parametrize("change", ["edited sources", "a damaged file", "a named compiler"])
def test_a_library_of_the_package_is_passed_over_for(change, shipped, tmp_path, monkeypatch):
    if change == "edited sources":
        edit_sources(tmp_path, monkeypatch)
    elif change == "a damaged file":
        shipped.write_bytes(shipped.read_bytes()[:-1])
    monkeypatch.setenv("CXX", str(script(tmp_path / "cxx", 'echo "error: called" >&2\nexit 1')))
    if change != "a named compiler":
        monkeypatch.setattr(build, "compiler", lambda: [os.environ.pop("CXX")])
    with pytest.raises(build.BuildError, match="error: called"), build.library():
        pass


PREBUILT = Path(__file__).parents[2] / ".ci" / "prebuilt.py"


@pytest.mark.repository
def test_libraries_of_the_package_are_named_after_machines():
    targets = runpy.run_path(str(PREBUILT))["TARGETS"]
    named = {build.prebuilt_name(*target) for target in targets}
    assert len(named) == len(targets) == 3
    assert any(name.startswith("linux-x86_64-") for name in named)


@pytest.mark.repository
def test_compiling_them_needs_ziglang(monkeypatch):
    main = runpy.run_path(str(PREBUILT))["main"]
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="the package ziglang is not installed"):
        main()
    assert not build.PREBUILT.exists()
