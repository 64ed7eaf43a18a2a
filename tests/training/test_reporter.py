"""Reports of a run: console, metrics.jsonl, TensorBoard and curves."""

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.tensorboard_files import events, scalars
from tensorboardX.proto.event_pb2 import SessionLog

from dien_jax.errors import UserError
from dien_jax.runs.folder import cut_back, read_evaluations
from dien_jax.training.loggers import opened_loggers
from dien_jax.training.progress import StepReport
from dien_jax.training.reporter import Reporter
from dien_jax.training.result import curves_figure, draw_curves

pytestmark = pytest.mark.fast


def record(step, auc=0.7):
    return {
        "step": step,
        "epoch": step / 100,
        "part": "network",
        "train": {"loss": 0.6, "click_loss": 0.4, "auxiliary_loss": 0.2, "accuracy": 0.7},
        "valid": {"auc": auc, "gauc": None, "logloss": 0.5, "accuracy": 0.75, "examples": 9},
    }


def tell(reporter, step):
    metrics = {"loss": 0.61234, "click_loss": 0.4, "auxiliary_loss": 0.21, "accuracy": 0.7}
    reporter.progress(StepReport(step, 1000, metrics, 11203.4, 1e-3))


@contextmanager
def reports(folder: Path, restored_step: int = 0, evaluated_step: int = 0) -> Iterator[Reporter]:
    """The reporter of a run with the default loggers."""
    with (
        opened_loggers(folder, restored_step=restored_step) as loggers,
        closing(Reporter(folder, loggers)) as reporter,
    ):
        cut_back(folder, evaluated_step)
        yield reporter


def test_without_a_terminal_a_line_comes_every_few_seconds(tmp_path, capfd, clock):
    with reports(tmp_path) as reporter:
        for step in range(10, 110, 10):
            tell(reporter, step)
            clock[0] += 1.0
    assert scalars(tmp_path)["train/examples_per_second", 10] == pytest.approx(11203.4)
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "step 10 of 1,000, click loss 0.4000, auxiliary loss 0.2100, 11,203 examples/s",
        "step 60 of 1,000, click loss 0.4000, auxiliary loss 0.2100, 11,203 examples/s, "
        "0:01:34 left",
    ]


def test_scoring_of_a_large_split_shows_how_far_it_is(tmp_path, capfd, clock):
    with reports(tmp_path) as reporter:
        for part in range(8):
            reporter.scoring("valid", 8000, part / 8)
            clock[0] += 2.0 if part else 20.0  # the first one compiles
        reporter.scoring("test", 10, 0.0)
    assert capfd.readouterr().err.splitlines() == [
        "scoring 8,000 valid examples, 20 s",
        "scoring 8,000 valid examples, 26 s, about 8 s left",
        "scoring 8,000 valid examples, 32 s, about 2 s left",
    ]


def test_what_is_not_known_is_not_reported(tmp_path, capfd):
    with reports(tmp_path) as reporter:
        reporter.progress(
            StepReport(1, 10, {"loss": 0.5, "click_loss": 0.5, "auxiliary_loss": 0.0}, None, 0.1)
        )
    assert capfd.readouterr().err == "step 1 of 10, click loss 0.5000\n"
    assert scalars(tmp_path) == {
        ("train/loss", 1): pytest.approx(0.5),
        ("train/click_loss", 1): pytest.approx(0.5),
        ("train/auxiliary_loss", 1): 0.0,
        ("train/learning_rate", 1): pytest.approx(0.1),
    }


def test_evaluation_is_on_disk_when_it_returns_unless_it_is_not_finite(tmp_path, capfd):
    with reports(tmp_path) as reporter:
        reporter.evaluation(record(100))
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [record(100)]
        found = {name: value for (name, _), value in scalars(tmp_path).items()}  # flushed too
        expected = {"valid/auc": 0.7, "valid/logloss": 0.5, "valid/accuracy": 0.75}
        assert found == {name: pytest.approx(value) for name, value in expected.items()}
        reporter.evaluation(record(200, auc=None))
        with pytest.raises(ValueError, match="JSON"):  # never reaches the file
            reporter.evaluation(record(300, auc=float("nan")))
    assert read_evaluations(tmp_path) == [record(100), record(200, auc=None)]
    assert capfd.readouterr().err.splitlines() == [
        "step 100, epoch 1.00: training click loss 0.4000, training auxiliary loss 0.2000, "
        "validation AUC 0.7000, validation log loss 0.5000",
        "step 200, epoch 2.00: training click loss 0.4000, training auxiliary loss 0.2000, "
        "validation log loss 0.5000",
    ]


def test_resumed_run_takes_back_reports_of_later_steps(tmp_path):
    for _ in range(2):  # the first was killed before its first checkpoint
        with reports(tmp_path) as reporter:
            for step in (100, 200, 300):
                tell(reporter, step)
                reporter.evaluation(record(step))
    with reports(tmp_path, restored_step=250, evaluated_step=200) as reporter:
        assert read_evaluations(tmp_path) == [record(100), record(200)]
        reporter.evaluation(record(300, auc=0.8))
    assert read_evaluations(tmp_path)[-1] == record(300, auc=0.8)
    found = events(tmp_path)
    first, restart = [
        number for number, event in enumerate(found) if event.session_log.status == SessionLog.START
    ]
    assert found[first].step == 1
    assert found[restart].step == 251  # TensorBoard drops the events from that step on
    assert [event.step for event in found[:restart] if event.HasField("summary")][-1] == 300
    assert [event.step for event in found[restart:] if event.HasField("summary")] == [300] * 3


@pytest.mark.parametrize("torn", ["", '{"step": 300, "ep', '{"step": 300}', "\x00\x00"])
def test_cut_drops_later_lines_and_a_torn_one(tmp_path, torn):
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps(record(step)) + "\n" for step in (100, 200)]
    file.write_text("".join(lines) + torn)
    assert read_evaluations(tmp_path) == [record(100), record(200)]
    cut_back(tmp_path, 200)
    assert file.read_text() == "".join(lines)
    cut_back(tmp_path, 199)
    assert file.read_text() == lines[0]
    cut_back(tmp_path, 0)
    assert file.read_text() == ""
    cut_back(tmp_path / "empty", 0)  # makes no file
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("damage", ["rubbish", "[1]", '{"step": "1"}', "\xff"])
def test_damaged_line_is_refused_by_number(tmp_path, damage):
    content = f"{json.dumps(record(100))}\n{damage}\n{json.dumps(record(300))}\n"
    (tmp_path / "metrics.jsonl").write_text(content, encoding="latin-1")
    expected = r"metrics.jsonl, line 2: [eE]xpected (JSON|'object'|'int')"
    with pytest.raises(UserError, match=expected):
        cut_back(tmp_path, 100)
    assert (tmp_path / "metrics.jsonl").read_text(encoding="latin-1") == content


def test_curves_are_drawn_from_evaluations_where_matplotlib_is(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    draw_curves(tmp_path)
    with reports(tmp_path) as reporter:
        for step in (100, 200):
            reporter.evaluation(record(step, auc=None if step == 100 else 0.7))
        reporter.evaluation({**record(300), "train": {}})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        draw_curves(tmp_path)
    assert not (tmp_path / "curves.png").exists()
    (tmp_path / "curves.png").write_text("older")
    draw_curves(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))
    of_tower = {"part": "tower", "train": {"click_loss": 0.5, "auxiliary_loss": 0.0}}
    tower = record(100) | of_tower
    figure = curves_figure([tower, record(200)])
    assert figure is not None
    steps = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert steps["the network begins"] == [100, 100]
    assert steps["training click loss"] == [100, 200]
    assert steps["training auxiliary loss"] == [200]
