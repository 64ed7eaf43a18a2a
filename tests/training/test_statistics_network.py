"""The statistics network: its fit, its place in the model, and what training leaves of it."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit
from support import tiny_run, untrained_run

from dien_jax.config.presets import member
from dien_jax.config.settings import Config, TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.data.loader import evaluation_loader
from dien_jax.model import StatisticsNetwork
from dien_jax.model.logistic_regression import alone, fitted_alone
from dien_jax.runs.trained import score_batches
from dien_jax.steps import make_predict_step, training_tables
from dien_jax.training import statistics_network
from dien_jax.training.statistics_network import Examples, fit_statistics_network
from dien_jax.utils.console import stage

MODEL = member("din", untrained_run.SMALL)
CONFIG = Config(model=MODEL, train=TrainConfig(batch_size=16, max_history=8, buckets=()))


def made(count: int, seed: int, noise: bool = False) -> Examples:
    """Clicks where two inputs have one sign, which no sum of the inputs tells; or at random."""
    random = np.random.default_rng(seed)
    inputs = random.normal(3, 5, (count, 4)).astype(np.float32)
    chances = expit(4 * np.sign((inputs[:, 0] - 3) * (inputs[:, 1] - 3)))
    clicked = random.random(count) < (0.5 if noise else chances)
    return Examples(inputs, random.normal(0, 0.1, count).astype(np.float32), clicked.astype("i1"))


def fitted(*splits: Examples, layers=(16, 8)):
    with stage("fit") as current:
        return fit_statistics_network(*splits, layers, current)


def test_the_fit_finds_what_is_not_linear_and_the_module_computes_it():
    first, second = made(4000, 0), made(500, 1)
    params = fitted(first, second)
    module, inputs = StatisticsNetwork((16, 8)), jnp.asarray(second.inputs)
    logits = np.asarray(module.apply({"params": params}, inputs))
    assert np.mean((logits + second.logits > 0) == (second.labels > 0)) > 0.9
    x = np.clip((second.inputs - params["mean"]) * params["scale"], -6, 6)
    plain = []
    for kernel, bias in ((f"kernel_{k}", f"bias_{k}") for k in range(3)):
        x = x @ params[kernel] + params[bias]
        plain.append(x)
        x = np.maximum(x, 0)
    np.testing.assert_allclose(logits, plain[-1][..., 0].mean(0), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_log_loss():
    examples = made(64, 2)
    networks = statistics_network._Networks((4, 6, 5, 1), np.random.default_rng(0))
    kernel = networks._kernels[-1]
    kernel += 0.3
    before = networks.copy()
    networks.step(examples.inputs, examples.logits, examples.labels.astype(np.float32))

    def loss(params):
        x = np.broadcast_to(examples.inputs, (4, 64, 4))
        for place in range(3):
            x = x @ params[f"kernel_{place}"] + params[f"bias_{place}"]
            x = x if place == 2 else jax.nn.relu(x)
        z = x[..., 0] + examples.logits[None]
        return (jax.nn.softplus(z) - z * examples.labels[None].astype(np.float32)).mean(1).sum()

    expected = jax.grad(loss)(before)
    for place in range(3):
        for name, found in (
            (f"kernel_{place}", networks._of_kernels[place]),
            (f"bias_{place}", networks._of_biases[place]),
        ):
            np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-6)
            step = before[name] - networks.copy()[name]  # the first one: the gradient's sign
            decay = statistics_network.DECAY * before[name]
            sign = step / statistics_network.LEARNING_RATE - decay
            clear = np.abs(expected[name]) > 1e-4
            np.testing.assert_allclose(sign[clear], np.sign(expected[name][clear]), atol=1e-2)


def test_a_fit_that_does_not_help_on_validation_changes_nothing():
    valid = made(100, 4, noise=True)
    exact = (100.0 * valid.labels).astype(np.float32)  # orders the noise without a mistake
    params = fitted(made(200, 3, noise=True), valid._replace(logits=exact))
    assert not params["kernel_2"].any()
    assert not params["bias_2"].any()


def test_the_fit_is_equal_to_the_bit_when_it_is_repeated():
    splits = made(600, 5), made(100, 6)
    jax.tree.map(np.testing.assert_array_equal, fitted(*splits), fitted(*splits))


def test_parts_of_the_model_score_by_themselves(tmp_path):
    dataset = open_dataset(tiny_run.write_data(tmp_path / "data"))
    state = untrained_run.random_state(CONFIG, dataset.schema)
    features = training_tables(dataset, CONFIG).features
    loader = evaluation_loader(dataset, "test", CONFIG.train)
    step = make_predict_step(CONFIG, dataset.schema)

    def logits(params):
        scores = score_batches(step, params, state.batch_stats, features, loader)
        return np.log(scores / (1 - scores))

    silent = jax.tree.map(jnp.zeros_like, state.params["statistics_network"])
    expected = logits(fitted_alone({**state.params, "statistics_network": silent}))
    regression = logits(alone(state.params))
    np.testing.assert_allclose(regression, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(logits(fitted_alone(state.params)) - regression).max() > 0.01
