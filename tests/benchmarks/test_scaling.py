"""Benchmarks of several devices: rows over virtual devices, and what compiled programs send."""

import json

import pytest

from benchmarks import scaling
from benchmarks.common.compiled_text import collectives, kinds

pytestmark = [pytest.mark.long, pytest.mark.repository]

TEXT = """HloModule step

%body.1 (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %sum.2 = f32[4]{0} all-reduce(%p), to_apply=%add
}

%called.9 (p: f32[4]) -> f32[4] {
  ROOT %all = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%p)
}

ENTRY %main.3 (p: f32[8,4]) -> f32[8,4] {
  %w = f32[4]{0} while(%p), condition=%cond, body=%body.1
  %f = f32[4]{0} fusion(%p), kind=kLoop, calls=%called.9
  ROOT %x = (f32[2,4]{1,0}, bf16[2,4]{1,0}) all-to-all(%p, %q)
}
"""


def test_collectives_are_counted_with_their_bytes_and_loops() -> None:
    found = collectives(TEXT, devices=4)
    assert kinds(found) == {"all-reduce": 1, "all-gather": 1, "all-to-all": 1}
    assert {one.kind: one.sent for one in found} == {
        "all-reduce": 2 * 3 / 4 * 16,
        "all-gather": 3 / 4 * 8 * 4 * 4,
        "all-to-all": 3 / 4 * 8 * (4 + 2),
    }
    assert [one.kind for one in found if one.in_loop] == ["all-reduce"]


@pytest.mark.slow
def test_each_number_of_devices_has_a_process_and_rows_of_its_own(tmp_path, capsys) -> None:
    file = tmp_path / "rows.json"
    flags = ["--devices", "1", "2", "--batch", "2", "--total", "4", "--steps", "3", "--rows"]
    scaling.main([*flags, "5000", "--repeats", "2", "--json", str(file)])
    rows = json.loads(file.read_text())
    assert [(row["scaling"], row["devices"], row["batch"]) for row in rows] == [
        ("weak", 1, 2), ("weak", 2, 4), ("strong", 1, 4), ("strong", 2, 4),
    ]  # fmt: skip
    assert all(row["virtual"] for row in rows)
    assert [row["sent_kb"] > 0 for row in rows] == [False, True, False, True]
    assert rows[0]["of_one"] == rows[2]["of_one"] == 1
    assert capsys.readouterr().out.startswith("| scaling | devices | virtual |")
