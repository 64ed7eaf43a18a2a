"""The benchmark of a device: parts that fail alone, and a summary that names each."""

import dataclasses
import json
import sys
import time
from pathlib import Path

import pytest
from dien_kernels import api

from benchmarks import device
from benchmarks.common.report import write_rows
from benchmarks.on_device import kernel_suite
from benchmarks.on_device import plan as plans
from benchmarks.on_device.plan import Part
from benchmarks.on_device.summary import suite_verdict, summary

pytestmark = [pytest.mark.long, pytest.mark.repository]

ABOUT = {
    "kind": "NVIDIA H100 80GB HBM3",
    "nvidia_smi": "NVIDIA H100, 81559 MiB",
    "versions": {"python": "3.12.3", "jax": "0.11.2"},
}
CASE = "augru, paper, default, B 70 T 9 D 12 H 36"


def row(outcome: str, **values: object) -> dict:
    return {"implementation": "triton", "case": CASE, "outcome": outcome, **values}


AGREES = row("agrees", deviation=1e-3, seconds=1.0)
DEVIATES = row("deviates", deviation=0.25, array="recurrent", seconds=1.0)
REFUSES = row("refuses", error="H is 300", seconds=0.1)
RAISES = row("raises", error="XlaRuntimeError: spill", seconds=1.0)
FAILED = "ended with status 1"


def write_suite(folder: Path, *rows: dict | None) -> None:
    """Write the lines of a suite: each case starts, and ends unless its row is None."""
    lines = [line for result in rows for line in (row("started"), result) if line]
    written = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "suite-triton.jsonl").write_text(f'{written}{{"cut')


@pytest.mark.parametrize(
    ("rows", "outcome", "agrees", "text"),
    [
        ([AGREES, AGREES], "finished", True, "agrees in 2 cases, deviation at most 1.0e-03"),
        ([AGREES, REFUSES], "finished", True,
         "agrees in 1 cases, deviation at most 1.0e-03, refuses 1"),
        ([AGREES, DEVIATES], FAILED, False,
         f"deviates by 2.5e-01 (recurrent: {CASE}); 1 of 2 cases"),
        ([RAISES], FAILED, False, f"does not compile or run ({CASE}): XlaRuntimeError: spill"),
        ([AGREES, None], "crashed (SIGSEGV)", False, f"crashed (SIGSEGV) in {CASE}"),
        ([AGREES, None], "over its time", False, f"hangs in {CASE}"),
        ([None], "over its time", False, f"hangs in {CASE}"),
        ([{**AGREES, "seconds": 70.0}, None], "over its time", True,
         f"agrees in 1 cases, deviation at most 1.0e-03; its time was over in {CASE}"),
        ([], FAILED, False, "ran no case: no module"),
    ],
)  # fmt: skip
def test_verdicts_of_a_kernel_name_what_is_wrong(rows, outcome, agrees, text, tmp_path: Path):
    write_suite(tmp_path, *rows)
    endings = {"suite-triton": {"outcome": outcome, "seconds": 80.0, "last": "no module"}}
    assert suite_verdict(tmp_path, "triton", endings) == (agrees, text)


@pytest.mark.parametrize(("factor", "outcome"), [(1.0, "agrees"), (1.5, "deviates")])
def test_the_suite_compares_a_kernel_with_the_oracle(factor, outcome, monkeypatch) -> None:
    case, backend = kernel_suite.SuiteCase("gru", "paper", "highest", 3, 1, 4, 4), api.backend

    def scaled(name):
        def run(*arguments):
            states, last = right.run(*arguments)
            return factor * states, last

        right = backend(name)
        return dataclasses.replace(right, run=run) if name == "xla" else right

    monkeypatch.setattr(api, "backend", scaled)
    found = kernel_suite.compare(case, "xla", interpreted=False)
    assert found["outcome"] == outcome
    assert (found["deviation"] > found["tolerance"]) == (outcome == "deviates")


def test_summary_has_what_auto_should_take(tmp_path: Path) -> None:
    def timed(name: str, milliseconds: float) -> dict:
        return {
            "case": "large_batch", "cell": "augru", "mode": "forward + backward",
            "precision": "default", "implementation": name, "median_ms": milliseconds,
        }  # fmt: skip

    parts = plans.plan(["mosaic_gpu", "triton"], ["mosaic_gpu", "triton"])
    names = [part.name for part in parts]
    assert names[:2] == ["suite-mosaic_gpu", "suite-triton"]
    assert len(set(names)) == len(names)
    write_suite(tmp_path, DEVIATES)
    (tmp_path / "suite-triton.jsonl").rename(tmp_path / "suite-mosaic_gpu.jsonl")
    write_suite(tmp_path, AGREES)
    ended = {"outcome": "finished", "seconds": 8.0, "last": ""}
    endings = dict.fromkeys(names[:2], ended)
    files = {
        "recurrence-mosaic_gpu": [timed("mosaic_gpu", 1.0), timed("xla", 11.0)],
        "recurrence-triton": [timed("triton", 2.0), timed("xla", 9.0)],
        "step-1024-float32": [
            {"case": "B 1024 T 100", "system": "dien_jax", "compute": "float32", "median_ms": 4.0,
             "samples_per_second": 256_000.0, "device_peak_mb": 900.0},
        ],
        "blocks-triton": [
            {"implementation": "triton", "hidden": 36, "blocks": "chosen", "median_ms": 2.0},
            {"implementation": "triton", "hidden": 36, "blocks": "64 x 1 x 4", "median_ms": 1.5},
        ],
    }  # fmt: skip
    for name, rows in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    text = summary(tmp_path, ABOUT, parts, endings)
    assert "| `mosaic_gpu` | deviates by 2.5e-01" in text
    taken = "`triton` (large_batch, forward + backward): 0.50 times as long with mosaic_gpu, 5.00"
    assert f'`"auto"` should take {taken} times as long with xla.' in text
    assert "| 1024 | dien_jax | float32 | 4 | 256,000 | 900 |" in text
    best = "- `triton`, H 36: best rows x steps x warps 64 x 1 x 4, 1.5 ms of 2 sizes"
    assert f"{best}; its own choice 2 ms" in text
    assert "| ranking | not run |" in text


ENDS = """
import os, signal, sys, time
module = sys.argv[2]
open(sys.argv[-1], "w").write('[{"kind": "chip", "versions": {"python": "3", "jax": "1"}}]')
open("ran", "a").write(module + " ")
if module == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if module == "hang":
    time.sleep(600)
print("last line of", module)
sys.exit(module == "fail")
"""


def test_rows_and_folders_that_cannot_be_written_are_one_line(tmp_path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "rows.json"):
        with pytest.raises(SystemExit, match=f"^error: {tmp_path}.*: "):
            write_rows(path, [])
    with pytest.raises(SystemExit, match=f"^error: {tmp_path}/file: "):
        device.main(["--out", str(tmp_path / "file")])


def test_parts_end_alone_and_only_what_is_left_runs_again(tmp_path, monkeypatch) -> None:
    """A script runs in place of modules, which end as their names say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device, "LEAST", 0.5)
    (tmp_path / "script.py").write_text(ENDS)
    python = sys.executable, str(tmp_path / "script.py")
    parts = [Part(name, name, (), 60.0) for name in ("good", "crash", "fail")]
    parts += [Part("hang", "hang", (), 2.0), Part("needs", "good", (), 60.0, "triton")]
    out = tmp_path / "out"
    first = device.Device(out, python)
    first.about()
    slow = [Part("hang", "hang", (), 600.0)]
    assert first.run(slow, time.monotonic() + 1) == slow  # cut off by the end, so left
    assert first.run(parts[:2], time.monotonic() + 600) == []
    again = device.Device(out, python)
    write_suite(out, DEVIATES)
    again.endings["suite-triton"] = {"outcome": FAILED, "seconds": 1, "last": ""}
    assert again.run(parts, time.monotonic() + 600) == []
    del again.endings["suite-triton"]
    assert {name: ending["outcome"] for name, ending in again.endings.items()} == {
        "good": "finished",
        "crash": "crashed (SIGSEGV)",
        "fail": "ended with status 1",
        "hang": "over its time",
        "needs": f"left out: triton deviates by 2.5e-01 (recurrent: {CASE}); 1 of 1 cases",
    }
    assert again.endings["fail"]["last"] == "last line of fail"
    about = plans.ABOUT.module
    assert Path("ran").read_text().split() == [about, "hang", "good", "crash", "fail", "hang"]
    Path("script.py").write_text(ENDS.replace("chip", "other chip"))
    with pytest.raises(SystemExit, match="has results of chip, Python 3, JAX 1; this is other"):
        again.about()
