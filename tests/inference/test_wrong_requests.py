"""Requests from Python that no model should see: each is refused, and the others are ranked."""

import json
import os
import subprocess
import sys

import pytest
from support import small_dataset, untrained_run
from support.wrong_requests import LISTS, REFUSED

from dien_jax import open_dataset
from dien_jax.data.schema import Feature
from dien_jax.data.value_text import whole_number
from dien_jax.data.vocabularies import Vocabularies
from dien_jax.errors import UserError

pytestmark = pytest.mark.long

pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset.write(tmp_path_factory.mktemp("wrong") / "data")


@pytest.fixture(scope="module")
def outcomes(dataset):
    run = untrained_run.write(dataset.parent / "run", dataset, model="base_model", buckets=())
    ended = subprocess.run(
        [sys.executable, "-m", "support.wrong_requests", str(run)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return dict(map(json.loads, ended.stdout.splitlines()))


@pytest.mark.parametrize(("name", "message"), [(name, message) for name, _, message in REFUSED])
def test_wrong_request_is_refused_alone(name, message, outcomes):
    assert outcomes[name].startswith(f"UserError: {message}")


@pytest.mark.parametrize("name", LISTS)
def test_ids_keep_their_scores_in_any_kind_of_list(name, outcomes):
    assert outcomes[f"ranked {name}"] == outcomes["ranked list"]


def test_separator_must_not_be_empty(dataset):
    schema = open_dataset(dataset).schema
    with pytest.raises(UserError, match="the separator must not be empty"):
        Vocabularies(schema, lambda name: ["", "a"], "")


def test_histories_keep_ids_with_spaces_that_training_saw(dataset):
    vocabularies = Vocabularies(open_dataset(dataset).schema, lambda name: ["", " a", "b"])
    assert vocabularies.events(" a| b |c |  |") == [" a", "b", "c"]
    assert vocabularies.events([" a", " b ", None, ""]) == [" a", " b "]
    assert vocabularies.events(None) == []


@pytest.mark.parametrize("text", ["\u0661", "\uff11.5", "1_0"])
def test_digits_that_no_log_may_have_are_no_numbers(text, dataset):
    price = Feature("price", "numeric", mean=0.0, deviation=1.0)
    vocabularies = Vocabularies(open_dataset(dataset).schema, lambda name: ["", "a"])
    with pytest.raises(UserError, match="is not a number"):
        vocabularies.encode(price, [text])
    assert whole_number(text) is None
