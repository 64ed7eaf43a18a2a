"""The benchmark of orders measures orders of the same examples."""

import numpy as np
import pytest

from benchmarks import loader_order
from dien_jax.config.settings import TrainConfig
from dien_jax.data.loader import Loader

pytestmark = [pytest.mark.long, pytest.mark.repository]


def test_rows_have_every_field_and_made_examples_an_order(tmp_path) -> None:
    loader_order.write_columns(tmp_path, 3000)
    for order in loader_order.ORDERS:
        row = loader_order.measure(tmp_path, order, 32, repeats=2)
        assert (row["policy"], row["examples"]) == (order, 3000)
        assert set(loader_order.COLUMNS) <= set(row)
        loader = Loader(loader_order.made_dataset(tmp_path), "train", TrainConfig(), order=order)
        seen = [loader.example_indices(0, step) for step in range(loader.steps_per_epoch)]
        assert sorted(np.concatenate(seen).tolist()) == list(range(3000))
        assert len(loader.padded_lengths) == 6


def test_the_command_has_a_process_for_each_row(tmp_path, capsys) -> None:
    file = tmp_path / "rows.json"
    loader_order.main(["--examples", "2000", "--repeats", "2", "--json", str(file)])
    text = capsys.readouterr().out
    assert text.count("| 2,000 examples, B 128 |") == 2
    assert file.read_text().count('"benchmark": "loader_order"') == 2
