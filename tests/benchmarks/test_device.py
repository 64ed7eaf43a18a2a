"""The benchmark of a device: parts that fail alone, and a summary that names each."""

import json
import sys
import time
from pathlib import Path

import pytest
from support import broken_kernels

from benchmarks import device
from benchmarks.on_device import plan as plans
from benchmarks.on_device.plan import Part
from benchmarks.on_device.step_cost import operations
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


@pytest.mark.parametrize(
    ("rows", "outcome", "agrees", "text"),
    [
        ([AGREES, AGREES], "finished", True, "agrees in 2 cases, deviation at most 1.0e-03"),
        (
            [AGREES, row("refuses", error="H is 300", seconds=0.1)],
            "finished",
            True,
            "agrees in 1 cases, deviation at most 1.0e-03, refuses 1",
        ),
        (
            [AGREES, DEVIATES],
            "ended with status 1",
            False,
            f"deviates by 2.5e-01 (recurrent: {CASE}); 1 of 2 cases",
        ),
        (
            [row("raises", error="XlaRuntimeError: spill", seconds=1.0)],
            "ended with status 1",
            False,
            f"does not compile or run ({CASE}): XlaRuntimeError: spill",
        ),
        ([AGREES, None], "crashed (SIGSEGV)", False, f"crashed (SIGSEGV) in {CASE}"),
        ([AGREES, None], "over its time", False, f"hangs in {CASE}"),
        ([None], "over its time", False, f"hangs in {CASE}"),
        ([], "ended with status 1", False, "ran no case: no module"),
    ],
)
def test_verdicts_of_a_kernel_name_what_is_wrong(rows, outcome, agrees, text, tmp_path: Path):
    lines = [line for result in rows for line in (row("started"), result) if line]
    written = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "suite-triton.jsonl").write_text(f'{written}{{"cut')
    endings = {"suite-triton": {"outcome": outcome, "seconds": 80.0, "last": "no module"}}
    assert suite_verdict(tmp_path, "triton", endings) == (agrees, text)


def test_a_kernel_whose_cases_take_long_is_not_said_to_hang(tmp_path: Path) -> None:
    lines = [row("started"), {**AGREES, "seconds": 70.0}, row("started")]
    (tmp_path / "suite-triton.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    endings = {"suite-triton": {"outcome": "over its time", "seconds": 80.0, "last": ""}}
    verdict = suite_verdict(tmp_path, "triton", endings)
    assert verdict is not None
    assert verdict.agrees
    assert verdict.text.endswith(f"its time was over in {CASE}")


def timed(name: str, milliseconds: float) -> dict:
    return {
        "case": "large_batch", "cell": "augru", "mode": "forward + backward",
        "precision": "default", "implementation": name, "median_ms": milliseconds,
    }  # fmt: skip


def test_summary_has_what_auto_should_take_and_shares_of_the_roofline(tmp_path: Path) -> None:
    parts = plans.plan(["mosaic_gpu", "triton"], ["mosaic_gpu", "triton"])
    names = [part.name for part in parts]
    assert names[:2] == ["suite-mosaic_gpu", "suite-triton"]
    assert len(set(names)) == len(names)
    endings = {}
    for kernel, result in (("mosaic_gpu", DEVIATES), ("triton", AGREES)):
        lines = [json.dumps(row("started")), json.dumps(result), ""]
        (tmp_path / f"suite-{kernel}.jsonl").write_text("\n".join(lines))
        endings[f"suite-{kernel}"] = {"outcome": "finished", "seconds": 8.0, "last": ""}
    files = {
        "recurrence-mosaic_gpu": [timed("mosaic_gpu", 1.0), timed("xla", 11.0)],
        "recurrence-triton": [timed("triton", 2.0), timed("xla", 9.0)],
        "step-1024-float32": [
            {"case": "B 1024 T 100", "system": "dien_jax", "compute": "float32", "median_ms": 4.0,
             "samples_per_second": 256_000.0, "device_peak_mb": 900.0},
            {"case": "B 1024 T 100", "system": "deepctr-torch", "compute": "float32",
             "median_ms": 90.0, "samples_per_second": 11_000.0, "device_peak_mb": 900.0},
        ],
        "cost": [{"batch": 1024, "compute": "float32", "operations": 310, "bound_ms": 1.0}],
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
    assert "| 1024 | dien_jax | float32 | 4 | 256,000 | 900 | 310 | 25.0% |" in text
    assert "| 1024 | deepctr-torch | float32 | 90 | 11,000 |  |  |  |" in text
    best = "- `triton`, H 36: best rows x steps x warps 64 x 1 x 4, 1.5 ms of 2 sizes"
    assert f"{best}; its own choice 2 ms" in text
    assert "| ranking | not run |" in text


def test_operations_of_a_program_are_those_that_run_something() -> None:
    text = """HloModule m
%body (p: f32[2]) -> f32[2] {
  %a = f32[2] add(p, p)
}

ENTRY %main (x: f32[2]) -> (f32[2]) {
  %x = f32[2]{0} parameter(0)
  %fusion = f32[2]{0} fusion(%x), kind=kLoop
  %call = f32[2]{0} custom-call(%fusion), custom_call_target="t"
  ROOT %tuple = (f32[2]) tuple(%call)
}
"""
    assert operations(text) == 2


def script(folder: Path, source: str) -> tuple[str, ...]:
    """Return a command that runs a script instead of modules."""
    file = folder / "script.py"
    file.write_text(source)
    return (sys.executable, str(file))


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


def test_parts_end_alone_and_only_what_is_left_runs_again(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = [Part(name, name, (), 60.0) for name in ("good", "crash", "fail")]
    parts.append(Part("hang", "hang", (), 5.0))
    python = script(tmp_path, ENDS)
    first = device.Device(tmp_path / "out", python)
    monkeypatch.setattr(device, "LEAST", 0.5)
    first.about()
    left = first.run(parts[:2], time.monotonic() + 600)
    assert left == []
    again = device.Device(tmp_path / "out", python)
    again.about()
    assert again.run(parts, time.monotonic() + 600) == []
    assert {name: ending["outcome"] for name, ending in again.endings.items()} == {
        "good": "finished",
        "crash": "crashed (SIGSEGV)",
        "fail": "ended with status 1",
        "hang": "over its time",
    }
    assert again.endings["fail"]["last"] == "last line of fail"
    about = plans.ABOUT.module
    assert Path("ran").read_text().split() == [about, "good", "crash", about, "fail", "hang"]


def test_a_part_that_the_end_cuts_off_is_left(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device, "LEAST", 0.5)
    parts = [Part("hang", "hang", (), 600.0), Part("good", "good", (), 60.0)]
    cut = device.Device(tmp_path / "out", script(tmp_path, ENDS))
    assert cut.run(parts, time.monotonic() + 2) == parts
    assert cut.endings == {}


def test_a_folder_with_results_of_another_device_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    device.Device(tmp_path / "out", script(tmp_path, ENDS)).about()
    python = script(tmp_path, ENDS.replace("chip", "other chip"))
    with pytest.raises(SystemExit, match="has results of chip, Python 3, JAX 1; this is other"):
        device.Device(tmp_path / "out", python).about()
    device.Device(tmp_path / "out", script(tmp_path, ENDS)).about()


def test_what_needs_a_kernel_that_is_wrong_is_left_out(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps(row("started")), json.dumps(DEVIATES), ""]
    (tmp_path / "suite-triton.jsonl").write_text("\n".join(lines))
    found = device.Device(tmp_path, script(tmp_path, ENDS))
    found.endings["suite-triton"] = {"outcome": "ended with status 1", "seconds": 1, "last": ""}
    needs = Part("recurrence-triton", "good", (), 60.0, "triton")
    assert found.run([needs], time.monotonic() + 60) == []
    outcome = found.endings["recurrence-triton"]["outcome"]
    assert outcome.startswith("left out: triton deviates by 2.5e-01")
    assert not Path("ran").exists()


def test_minutes_out_of_range_are_refused(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        device.main(["--out", str(tmp_path), "--minutes", "nan"])
    assert "--minutes must be above 0 and at most a day, got nan" in capsys.readouterr().err


@pytest.mark.long
def test_kernels_that_deviate_crash_and_hang_are_named(tmp_path: Path) -> None:
    python = (sys.executable, broken_kernels.__file__)
    parts = plans.rehearsal(["mosaic_tpu", "triton", "mosaic_gpu"])
    parts = [*parts[:2], parts[2]._replace(seconds=20)]
    found = device.Device(tmp_path, python)
    about = found.about()
    assert found.run(parts, time.monotonic() + 600) == []
    text = summary(tmp_path, about, parts, found.endings)
    assert "| `mosaic_tpu` | deviates by" in text
    assert f"| `triton` | crashed (SIGSEGV) in {CASE} |" in text
    assert f"| `mosaic_gpu` | hangs in {CASE} |" in text
