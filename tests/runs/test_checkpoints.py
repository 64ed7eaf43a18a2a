"""Checkpoints: bit for bit, whole at any moment, the latest and the best kept, others gone."""

import contextlib
import itertools
import json
import math
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.small_dataset import contents

from dien_jax.errors import UserError
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.steps.state import TrainState

pytestmark = pytest.mark.long

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def make_state(seed=0, hidden=5, stats=("mean",), key=None):
    """A state with everything that states have: moments, counts, empty parts, a typed key."""

    def draw(shape, fold):
        rng = np.random.default_rng((seed, fold))
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {
        "embedding": {"item": draw((7, 3), 0)},
        "gru": {"recurrent": draw((hidden, 3, hidden), 1), "bias": draw((3, hidden), 2)},
    }
    moments = jax.tree.map(
        lambda leaf: leaf + (draw((), 3) if leaf.ndim == 0 and leaf.dtype == jnp.float32 else 0),
        OPTIMIZER.init(params),
    )
    statistics = {name: draw((hidden,), 4) for name in stats}
    key = jax.random.key(seed + 1) if key is None else key
    return TrainState(params, statistics, moments, jnp.asarray(seed, jnp.int32), key)


def raw(state):
    return jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert one.key.dtype == other.key.dtype
    for left, right in zip(jax.tree.leaves(raw(one)), jax.tree.leaves(raw(other)), strict=True):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert left.tobytes() == right.tobytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_state_and_host_values_come_back_bit_for_bit(tmp_path):
    state = make_state(3)
    special = jnp.asarray([math.nan, -0.0, math.inf, 1e-45, 0.1], jnp.float32)
    state = state._replace(batch_stats={"mean": special})
    host = {"epoch": 2, "best": {"score": 0.1 + 0.2, "worst": -math.inf}, "none": None, "text": "é"}
    Checkpoints(tmp_path).save(12, state, host, best=True)
    restored, found = Checkpoints(tmp_path, read_only=True).restore(12, state)
    assert_same_bits(restored, state)
    assert found == host


def test_donated_state_of_another_generator_serves_as_pattern(tmp_path):
    state = make_state(key=jax.random.key(9, impl="rbg"))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {}, best=False)
    expected, drawn = raw(state), jax.random.bits(state.key)
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    restored, _ = checkpoints.restore(1, state)
    assert jax.tree.all(jax.tree.map(np.array_equal, raw(restored), expected))
    assert jax.random.bits(restored.key) == drawn


def test_a_model_is_read_without_the_state_of_the_optimizer(tmp_path):
    state = make_state(3)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {}, best=False)
    found, _ = checkpoints.restore(1, state, optimizer=False)
    assert jax.tree.leaves(found.optimizer_state) == []
    assert_same_bits(found._replace(optimizer_state=state.optimizer_state), state)


def test_latest_and_best_are_kept_and_others_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path / "made" / "checkpoints")
    folder = tmp_path / "made" / "checkpoints"
    assert checkpoints.latest_step() is None
    assert checkpoints.best_step() is None
    expected = {9: ["9"], 20: ["20"], 30: ["20", "30"], 100: ["100", "20"], 110: ["110"]}
    for step, kept in expected.items():
        checkpoints.save(step, make_state(step), {"step": step}, best=step in (20, 110))
        assert names(folder) == kept
        assert checkpoints.latest_step() == step
        assert checkpoints.best_step() == {9: None, 20: 20, 30: 20, 100: 20, 110: 110}[step]
        assert checkpoints.restore(step, make_state())[1] == {"step": step}
    assert_same_bits(checkpoints.restore(110, make_state())[0], make_state(110))


def test_step_can_be_saved_again_with_its_evaluation_and_none_before_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, make_state(), {"evaluated": False}, best=False)
    checkpoints.save(5, make_state(), {"evaluated": True}, best=True)
    assert (checkpoints.latest_step(), checkpoints.best_step()) == (5, 5)
    assert checkpoints.restore(5, make_state())[1] == {"evaluated": True}
    checkpoints.save(5, make_state(), {"evaluated": "before"}, best=False)
    assert (checkpoints.latest_step(), checkpoints.best_step()) == (5, 5)
    assert len(names(tmp_path)) == 1
    with pytest.raises(ValueError, match="at least the latest, 5, got 4"):
        checkpoints.save(4, make_state(), {}, best=True)


def test_leftovers_are_ignored_then_removed_at_the_next_start(tmp_path):
    Checkpoints(tmp_path).save(5, make_state(), {}, best=True)
    for name in (
        "7.unfinished",
        "7.orbax-checkpoint-tmp",
        "7.orbax-checkpoint-tmp-123",
        "4.removed",
        "4-1.removed",
    ):
        shutil.copytree(tmp_path / "5", tmp_path / name)
    (tmp_path / "notes.txt").write_text("mine")
    reader = Checkpoints(tmp_path, read_only=True)
    assert (reader.latest_step(), reader.best_step()) == (5, 5)
    assert len(names(tmp_path)) == 7
    Checkpoints(tmp_path)
    assert names(tmp_path) == ["5", "notes.txt"]


def test_reader_of_a_missing_folder_finds_nothing_and_makes_nothing(tmp_path):
    reader = Checkpoints(tmp_path / "absent", read_only=True)
    assert reader.latest_step() is None
    with pytest.raises(UserError, match="has no checkpoint of step 3"):
        reader.restore(3, make_state())
    assert names(tmp_path) == []


def test_reader_of_a_checkpoint_that_is_replaced_reads_its_successor(tmp_path):
    checkpoints, reader = Checkpoints(tmp_path), Checkpoints(tmp_path, read_only=True)
    checkpoints.save(1, make_state(1), {"step": 1}, best=True)

    def read():
        best = reader.best_step()
        if best == 1:
            checkpoints.save(2, make_state(2), {"step": 2}, best=True)
        return reader.restore(best, make_state())[1]

    assert reader.settled(read) == {"step": 2}


class Snapshots:
    """Copies a folder whenever Python is about to touch a file: what a kill then would leave."""

    EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")

    def __init__(self, source, target):
        self.source, self.target, self.taken, self.busy = source, target, [], True
        self.number, self.last = itertools.count(), None
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if self.busy or event not in self.EVENTS:
            return
        self.busy = True
        copy = self.target / str(next(self.number))
        with contextlib.suppress(shutil.Error):  # files that vanish while they are copied
            shutil.copytree(self.source, copy)
        if (found := contents(copy)) != self.last:  # to open a file may change nothing
            self.taken.append(copy)
            self.last = found
        self.busy = False


@pytest.mark.parametrize("best", [False, True])
def test_kill_at_any_moment_of_a_save_leaves_latest_and_best(tmp_path, best):
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder)
    checkpoints.save(10, make_state(10), {"step": 10}, best=True)
    checkpoints.save(20, make_state(20), {"step": 20}, best=False)
    new = make_state(30)
    snapshots = Snapshots(folder, tmp_path / "snapshots")
    snapshots.busy = False
    checkpoints.save(30, new, {"step": 30}, best=best)
    snapshots.busy = True

    seen = []
    for copy in snapshots.taken:
        found = Checkpoints(copy)
        latest, best_step = found.latest_step(), found.best_step()
        for step in (latest, best_step):
            state, host = found.restore(step, new)
            assert host == {"step": step}
            assert_same_bits(state, make_state(step))
        seen.append((latest, best_step))
        assert all(name.isdigit() for name in names(copy))
    after = (30, 30 if best else 10)
    assert set(seen) == {(20, 10), after}
    assert seen.index(after) + seen[::-1].index((20, 10)) == len(seen)  # one change, no way back
    found.save(40, make_state(40), {"step": 40}, best=False)
    assert len(names(copy)) == 2


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (make_state(hidden=6), r"expected params/gru/bias as float32 \[3, 6\], found float32 \[3,"),
        (make_state(stats=("mean", "variance")), "expected batch_stats/variance as .* nothing"),
        (make_state(stats=()), "it has batch_stats/mean, which the configuration lacks"),
        (make_state()._replace(step=jnp.zeros(())), r"expected step as float32 \[\], found int32"),
        (
            make_state(key=jax.random.key(1, impl="rbg")),
            r"expected key as uint32 \[4\], found uint32 \[2\]",
        ),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused_by_name(tmp_path, state, message):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, make_state(), {}, best=False)
    with pytest.raises(UserError, match=f"/5 does not fit the configuration: {message}"):
        checkpoints.restore(5, state)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_damaged_checkpoint_is_refused(tmp_path):
    original = tmp_path / "original"
    Checkpoints(original).save(5, make_state(), {}, best=True)
    files = [path.relative_to(original) for path in original.rglob("*") if path.is_file()]
    refused = 0
    damages = {"empty": lambda _: b"", "rubbish": lambda _: b"\x00rubbish", "flipped": flipped}
    for number, file in enumerate(files):
        for name, damage in damages.items():
            copy = tmp_path / f"{number}-{name}"
            shutil.copytree(original, copy)
            (copy / file).write_bytes(damage((original / file).read_bytes()))
            try:
                restored, _ = Checkpoints(copy).restore(5, make_state())
                assert_same_bits(restored, make_state())  # a file that only tells the time, say
            except UserError:
                refused += 1
    assert refused >= 9


def test_array_that_is_not_as_it_was_saved_is_refused(tmp_path):
    """A flipped bit may leave numbers that Orbax can read."""
    checkpoints, state = Checkpoints(tmp_path), make_state()
    checkpoints.save(5, state, {}, best=True)
    file = tmp_path / "5/host/metadata"
    saved = json.loads(file.read_bytes())
    saved["crc32"]["params/embedding/item"] ^= 1
    file.write_text(json.dumps(saved))
    with pytest.raises(UserError, match="/5 is damaged: params/embedding/item is not as it was"):
        checkpoints.restore(5, state)


def test_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot use .*/file/checkpoints for checkpoints: "):
        Checkpoints(tmp_path / "file" / "checkpoints")
