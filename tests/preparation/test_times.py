"""Times and numbers of logs that are malformed or mixed."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tiny_logs import make, refused, write
from support.value_texts import TEXTS, read_by

from dien_jax.data.value_text import Clock, number_of
from dien_jax.data.vocabularies import UserEvents
from dien_jax.errors import UserError
from dien_jax.preparation.logs import open_workspace
from dien_jax.preparation.options import LogOptions
from dien_jax.preparation.sources import impressions

pytestmark = pytest.mark.long

START = 1_300_000_000


def log(times: list[object], price: str = "2.5") -> str:
    """Forty users with twelve events each; the first rows have the given times."""
    rows = [(u, (7 * k + u) % 11, START + 1000 * k) for u in range(40) for k in range(12)]
    lines = [f"u{u},i{i},c,1.5,{time}" for u, i, time in rows]
    for place, time in enumerate(times):
        lines[place] = f"u{rows[place][0]},i{rows[place][1]},c,{price},{time}"
    return "user,item,category,price,timestamp\n" + "\n".join(lines) + "\n"


def test_times_are_told_as_dates_too(tmp_path) -> None:
    times = {"split": "by-time", "valid_from": "2011-03-13T09:00", "test_from": f"{START + 9000}"}
    _, summary = make(write(tmp_path, log([])), **times)
    whole = (
        f"times {START} to {START + 11000} (seconds), 2011-03-13 07:06:40 to 2011-03-13 10:10:00"
    )
    assert summary[0].endswith(f"{whole} UTC")
    assert summary[1] == "valid from 2011-03-13 09:00:00, test from 2011-03-13 09:36:40 UTC"


def test_seconds_among_milliseconds_are_malformed(tmp_path) -> None:
    times = [(START + k) * 1000 for k in range(300)]
    expected = "timestamp '1300000000' looks like seconds, and most timestamps are milliseconds"
    refused(write(tmp_path, log(times)), expected)
    few = [(START + k) * 1000 for k in range(479)]
    dataset, summary = make(write(tmp_path, log(few)))
    assert "looks like seconds" in summary[1]
    assert len(dataset.event_item) == 479
    assert dataset.meta["source"]["time_unit"] == "milliseconds"


def test_milliseconds_of_early_years_among_seconds_are_malformed(tmp_path) -> None:
    _, summary = make(write(tmp_path, log([200_000_000_000])))
    assert "looks like milliseconds, and most timestamps are seconds" in summary[1]


@pytest.mark.parametrize(
    ("form", "kind"), [("{}", "csv"), ("{}1230", "csv"), ("{}123059", "csv"), ("{}", "parquet")]
)
def test_dates_without_hyphens_are_not_taken_for_numbers(form, kind, tmp_path) -> None:
    times = [int(form.format(20130201 + k % 28)) for k in range(480)]
    file = write(tmp_path, log(times))
    if kind == "parquet":
        file.unlink()
        columns = {"user": [str(k % 9) for k in range(480)], "item": ["x", "y"] * 240}
        file = tmp_path / "log.parquet"
        pq.write_table(pa.table(columns | {"timestamp": times}), file)
    refused(file, f"look like dates without hyphens, {form.format(20130201)}", item_features=())


def test_a_number_that_is_too_far_from_the_others_is_refused(tmp_path) -> None:
    """The user of the first row is not in training, where the price has the deviation 0.001."""
    header = "user,item,label,price,timestamp\n"
    lines = [
        f"u{u},i{k % 5},{k % 2},{'1e37' if u == k == 9 else 1 + k / 1000},{START + k}\n"
        for k in range(10)
        for u in range(10)
    ]
    options = impressions.ImpressionsOptions(
        file=write(tmp_path, header + "".join(lines)),
        out=tmp_path / "data",
        request_features=("price:numeric",),
    )
    expected = r"--request-features price: 1e\+37 is too far from the oth"
    with pytest.raises(UserError, match=expected):
        impressions.prepare(options)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_requests_have_the_unit_that_the_folder_records(tmp_path) -> None:
    """Dates in 1970 are few milliseconds, which look like seconds."""
    dates = [f"1970-01-0{1 + k % 9}" for k in range(480)]
    dataset, _ = make(write(tmp_path, log(dates)))
    assert UserEvents(dataset).time("1970-01-01T00:00:01.500") == 1500


@pytest.mark.parametrize("kind", TEXTS)
def test_requests_have_the_numbers_and_dates_of_logs(kind, tmp_path) -> None:
    texts, moments = TEXTS[kind], Clock(iso=False, unit="milliseconds")
    with open_workspace(LogOptions(out=tmp_path / "data", split="by-user")) as workspace:
        in_logs = read_by(workspace, texts, kind)

    def in_request(text: str) -> object:
        if kind == "number":
            return number_of(text)
        try:
            return moments.read("", text)
        except UserError:
            return None

    found = dict(zip(texts, zip(in_logs, map(in_request, texts), strict=True), strict=True))
    different = {t for t, both in found.items() if both[0] != repr(both[1])}
    later = {"12020-01-02", "9999-12-31T23:59:59.999-01:00"}  # than 9999, which both refuse
    assert different == (later if kind == "date" else set())
