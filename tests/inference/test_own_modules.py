"""A cell and an attention that someone adds: trained, ranked with, exported and served."""

import dataclasses
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_run, untrained_run
from support.http_server import Server, check_ranking
from support.tiny_run import MODEL
from support.untrained_run import TOLERANCE

from dien_jax import Config, Ranker, RankRequest, TrainConfig, fit, load_run, open_dataset
from dien_jax.errors import UserError
from dien_jax.inference import export_run
from dien_jax.inference.archive import read_archive
from dien_jax.model import ATTENTIONS, AUXILIARIES, EVOLUTIONS

pytestmark = [pytest.mark.long, pytest.mark.repository]

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


class DotAttention(nn.Module):
    """Weights that are sigmoids of dot products: not a softmax, and no parameter named as ours."""

    @nn.compact
    def __call__(self, candidate, states, lengths):
        query = nn.Dense(states.shape[-1], name="query")(candidate)
        live = jnp.arange(states.shape[1], dtype=lengths.dtype)[None] < lengths[:, None]
        return jnp.where(live, jax.nn.sigmoid(jnp.einsum("bth,bh->bt", states, query)), 0)


def test_own_modules_train_rank_export_and_serve(tmp_path, monkeypatch, capfd) -> None:
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    namespace: dict = {"__name__": "tutorial"}
    exec(block[1], namespace)
    cell = namespace["MinAUGRU"]
    monkeypatch.setitem(EVOLUTIONS, "own", lambda config: cell(config.hidden_size))
    monkeypatch.setitem(ATTENTIONS, "own", lambda config: DotAttention())
    train = TrainConfig(batch_size=16, epochs=1, max_history=8, buckets=())
    model = dataclasses.replace(MODEL, auxiliary_weight=0.0, evolution="own", attention="own")
    config = Config(model, train=train)
    run, file = tmp_path / "run", tmp_path / "model.dien"
    dataset = open_dataset(tiny_run.write_data(tmp_path / "data"))
    fit(config, data=dataset, run_dir=run)

    assert np.ptp(untrained_run.check_ranking(load_run(run), most=20)) > 1e-4
    ranker, items = Ranker(run), dataset.vocabulary("item")
    history, candidates = items[2:10], items[1:] * 4  # more than one chunk of them
    expected = ranker.rank(history, candidates, "u1")
    ranker.remember("u1", history[:-1])
    ranker.observe("u1", history[-1])
    remembered = ranker.rank(None, candidates, "u1")
    np.testing.assert_allclose(remembered.scores, expected.scores, **TOLERANCE)

    capfd.readouterr()
    export_run(run, file)
    assert "histories padded to 8" in capfd.readouterr().err
    monkeypatch.delitem(EVOLUTIONS, "own")  # the file holds the computation
    monkeypatch.delitem(ATTENTIONS, "own")
    assert steps_of(file) == [8]  # the cell's scan must know it
    exported = Ranker(file).rank(history, candidates, "u1")
    np.testing.assert_allclose(exported.scores, expected.scores, **TOLERANCE)
    few = RankRequest(history[-8:], candidates[:8], "u1")
    server = Server(file).warm()
    body = {name: value for name, value in few._asdict().items() if value is not None}
    check_ranking(server.post("/v1/rank", body), Ranker(file).rank(*few))
    server.end()


def steps_of(file: Path) -> list[str | int]:
    return read_archive(file).manifest["programs"]["read_history"]["inputs"]["history"]["shape"]


def test_an_own_attention_is_exported_for_histories_of_any_length(tmp_path, monkeypatch) -> None:
    data, options = tiny_run.write_data(tmp_path / "data"), {"statistics": False, "buckets": ()}
    monkeypatch.setitem(ATTENTIONS, "own", lambda config: DotAttention())
    run = untrained_run.write(tmp_path / "run", data, model="din", attention="own", **options)
    export_run(run, tmp_path / "model.dien")  # which compares scores
    assert steps_of(tmp_path / "model.dien") == ["t"]


class Narrow(nn.Module):
    """A loss without parameters, and a score that asks for the number of candidates."""

    def __call__(self, states, history, negatives, positions, is_negative, **options):
        return jnp.zeros(())

    def score(self, states, behaviours):
        return jnp.ones(int(states.shape[0])) * states.sum(1)


def test_an_own_auxiliary_loss_that_cannot_be_exported_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(AUXILIARIES, "own", lambda config, axis: Narrow())
    data, options = tiny_run.write_data(tmp_path / "data"), {"statistics": False, "buckets": ()}
    run = untrained_run.write(tmp_path / "run", data, auxiliary="own", **options)
    with pytest.raises(UserError, match="a model with auxiliary 'own' cannot be exported: "):
        export_run(run, tmp_path / "model.dien")


class Scaled(nn.Module):
    """A cell that sums states times a number."""

    factor: float

    @nn.compact
    def __call__(self, x, attention, lengths):
        live = jnp.arange(x.shape[1], dtype=lengths.dtype)[None] < lengths[:, None]
        states = self.factor * jnp.cumsum(x * jnp.where(live, attention, 0)[..., None], axis=1)
        return states, states[:, -1]


def test_a_module_that_changed_under_its_name_ranks_as_it_scores(tmp_path, monkeypatch) -> None:
    """As in a notebook, where a cell is edited and the next run has the same settings."""
    data = tiny_run.write_data(tmp_path / "data")
    for factor in (1.0, -2.0):
        monkeypatch.setitem(EVOLUTIONS, "own", lambda c, factor=factor: Scaled(factor))
        options = {"evolution": "own", "statistics": False}
        model = untrained_run.trained.__wrapped__(data, "augru", **options)
        untrained_run.check_ranking(model, most=1)
