"""Parts of a batch, one for each process of a run, are its rows in sequence."""

import jax
import numpy as np
import pytest
from support.loader_data import BUCKETS, make_dataset, random_lengths

from dien_jax.config.settings import TrainConfig
from dien_jax.data.loader import Loader

pytestmark = pytest.mark.fast

LENGTHS = random_lengths(50)
TRAIN = TrainConfig(batch_size=12, buckets=BUCKETS, max_history=12)


@pytest.mark.parametrize("parts", [2, 3, 12])
@pytest.mark.parametrize("order", ["shuffled", "sorted", "evaluation"])
def test_parts_together_are_the_batch(order: str, parts: int) -> None:
    dataset = make_dataset(LENGTHS)
    about = {"seed": 3, "order": order}
    whole = Loader(dataset, "train", TRAIN, **about)
    loaders = [Loader(dataset, "train", TRAIN, **about, part=(k, parts)) for k in range(parts)]
    for epoch in (0, 1):
        for step in range(whole.steps_per_epoch):  # the last one has filler, in whole parts too
            batches = [loader.batch(epoch, step) for loader in loaders]
            joined = jax.tree.map(lambda *rows: np.concatenate(rows), *batches)
            jax.tree.map(np.testing.assert_array_equal, joined, whole.batch(epoch, step))
            assert {batch.item.shape for batch in batches} == {(12 // parts,)}
    indices = [loader.example_indices(1, 2).tolist() for loader in (whole, *loaders)]
    assert all(one == indices[0] for one in indices)


@pytest.mark.parametrize("part", [(2, 2), (-1, 2), (0, 5)])
def test_other_parts_are_refused(part: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"part must be one of equal parts of batch_size 12"):
        Loader(make_dataset(LENGTHS), "train", TRAIN, part=part)
