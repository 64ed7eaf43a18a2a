"""Texts that are numbers or dates for some programs, and what an engine of preparation reads."""

from typing import Any

import ibis
import numpy as np
import pyarrow as pa

from dien_jax.data.value_text import ISO_DATE
from dien_jax.preparation.reading.workspace import Workspace

NUMBERS = """
1 +1 -1 ++1 1. .5 -.5 . 1e 1e3 1E+3 1e-3 1.e3 inf +Inf -INFINITY nan NaN 1_0 0x10 1d 1f 1L 1e400
-1e400 4.9e-324 2e-324 123456789012345678901234567890 0.1 00012 1,0 1.5.2 9007199254740993 -0.0
1.8e308 1.7976931348623159e308 0.30000000000000004 1e99999999999
"""
DATES = """
2020-01-02|2020-1-2|2020-01-02 03:04|2020-01-02 03|2020-01-02 3:4:5|2020-01-02T03:04:05Z
2020-01-02T03:04:05.1|2020-01-02T03:04:05.123456789|2020-01-02T03:04:05+01|2020-01-02 03:04Z
2020-01-02T03:04:05-01:30|2020-01-02T03:04:05+0130|2020-01-02 03:04:05 UTC|2020-01-02 03:04+01
2020-01-02 24:00:00|2020-01-02 23:59:60|2020-02-30|2020-02-29|2019-02-29|12020-01-02|2020-01
2020-01-02Z|1969-12-31|2020-01-02 03:04:05.|2020-13-01|2020/01/02| 2020-01-02|2020-01-02 (BC)
2020-01-02T03:04:05+14:00|2020-01-02T03:04:05+15:00|9999-12-31T23:59:59.999-01:00|0020-01-02
2020-01-02 03:04:05 Europe/Berlin
"""
ODD_NUMBERS = ["", " ", "1 2", "- 1", "1e 3", " 1 ", "\t1\n", "\x1c1", "\xa01", "\u0661"]
TEXTS = {
    "number": [*NUMBERS.split(), *ODD_NUMBERS],
    "date": ["2020-01-02\n", *DATES.strip().replace("\n", "|").split("|")],
}


def read_by(workspace: Workspace, texts: list[str], kind: str) -> list[Any]:
    """Return the text of each number, or of each time in milliseconds, None without one."""
    table = workspace.store("texts", pa.table({"n": np.arange(len(texts)), "text": texts}))
    if kind == "number":
        value = workspace.number(table.text)
    elif kind == "date":
        is_date = table.text.re_search(rf"^({ISO_DATE})\z")
        value = workspace.milliseconds(is_date.ifelse(table.text, ibis.null("string")))
    batches = workspace.batches(table.select("n", value=value).order_by("n"))
    return [repr(value) for batch in batches for value in batch.column("value").to_pylist()]
