"""The C++ kernels as built otherwise: other instruction sets, threads, warnings, sanitizers."""

import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dien_kernels.native import build, library
from support.programs import printed

pytestmark = pytest.mark.long

CASES = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(os.environ["PROCESSORS"])])
import functools, hashlib, itertools, pathlib, pickle
import jax, jax.numpy as jnp, numpy as np
from dien_kernels import candidate_attention, last_states
from dien_kernels.native import build, library
from support import networks
from support.recurrences import CASES, assert_agree, evaluate, operands

@functools.cache
def candidates_by(name):
    return jax.jit(functools.partial(candidate_attention, implementation=name))

def last_by(cell, form, name):
    def last(*arrays):
        return last_states(cell, form, *arrays, "highest", name)
    return jax.jit(last)

def check(found, expected, tolerance):
    if sys.argv[1] == "compare":
        made.append(known[len(made)] if known else jax.device_get(expected()))
        assert_agree(found, made[-1], tolerance)
    for leaf in jax.tree.leaves(found):
        digest.update(np.asarray(leaf).tobytes())

kept = pathlib.Path(os.environ.get("ORACLE", "nowhere"))
known, made = pickle.loads(kept.read_bytes()) if kept.exists() else [], []
build.FLAGS = (*build.FLAGS, *sys.argv[2:])
print("set", library.instruction_set())
sizes = [(1, 1, 1, 1), (37, 18, 7, 13), (70, 5, 17, 20)]
digest = hashlib.sha256()
for (cell, form, biased), (batch, steps, depth, hidden) in zip(CASES, itertools.cycle(sizes)):
    arrays = operands(
        cell, batch=batch, steps=steps, depth=depth, hidden=hidden, biased=biased, scale=0.4
    )
    found, oracle = (evaluate(cell, form, name) for name in ("native", "reference"))
    check(found(*arrays), lambda: oracle(*arrays), 3e-5)
for batch, steps, count, depth, hidden, widths in networks.NETWORK_SIZES:
    attention = networks.attention_operands(batch, steps, hidden, widths)
    auxiliary = networks.auxiliary_operands(batch, steps, count, depth, hidden, widths)
    candidates = networks.candidate_operands(batch, steps, hidden, widths)
    length = jnp.int32(max(steps - 1, 1))

    def evaluate_networks(name, of_candidates):
        return (
            networks.attention_gradients(networks.attention_by(name))(*attention),
            networks.auxiliary_gradients(networks.auxiliary_by(name))(*auxiliary),
            candidates_by(of_candidates)(*candidates, length=length),
        )

    found = evaluate_networks("native", "native")
    check(found, lambda: evaluate_networks("reference", "xla"), 1e-4)
for cell, form in itertools.product(("aigru", "agru", "augru"), ("paper", "authors")):
    x, attention, weights, *_ = operands("agru" if cell == "agru" else "augru", batch=70)
    arrays = x[0], attention, weights, jnp.int32(5)
    last, expected = (last_by(cell, form, name) for name in ("native", "xla"))
    check(last(*arrays), lambda: expected(*arrays), 1e-5)
print("digest", digest.hexdigest())
if made:
    kept.write_bytes(pickle.dumps(made))
"""


def run(*arguments: str, processors: int = 2, **variables: str) -> dict[str, str]:
    """Run the cases in a process of its own; return its instruction set and a digest of results."""
    lines = printed(CASES, *arguments, PROCESSORS=str(processors), **variables).splitlines()
    return dict(line.split() for line in lines)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Return a function that compares an instruction set with the oracle, computed once."""
    oracle = str(tmp_path_factory.mktemp("oracle") / "values")
    return functools.cache(lambda name: run("compare", DIEN_KERNELS_ISA=name, ORACLE=oracle))


@pytest.mark.parametrize("name", ["avx2", "plain"])
def test_every_instruction_set_agrees_with_the_oracle(name: str, compared) -> None:
    names = ["avx512", "avx2", "plain"]
    if name not in names[names.index(library.instruction_set()) :]:
        pytest.skip("this processor lacks it")
    assert compared(name)["set"] == name


def test_one_thread_and_two_give_the_same_bits(compared) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    assert run("digest", processors=1, DIEN_KERNELS_ISA="plain") == compared("plain")


def test_sources_compile_without_a_warning(tmp_path: Path) -> None:
    sets = build.KERNELS.get(platform.machine(), {"plain": ()})
    quick = {name: (*flags, "-O0") for name, flags in sets.items()}
    command = [*build.compiler(), "-Wshadow", "-Werror"]
    assert build.compile_library(command, tmp_path, quick).exists()


def test_no_read_or_write_outside_of_the_arrays(tmp_path: Path) -> None:
    """With AddressSanitizer and UndefinedBehaviorSanitizer: an error ends the process."""
    gcc = shutil.which("g++")
    if gcc is None:
        pytest.skip("needs g++ and its sanitizers")
    runtimes = [
        subprocess.run(
            [gcc, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(runtime).is_absolute() for runtime in runtimes):
        pytest.skip("needs g++ and its sanitizers")
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1")
    found = run(
        "digest", *flags, CXX=gcc, DIEN_KERNELS_CACHE=str(tmp_path),
        LD_PRELOAD=":".join(runtimes), ASAN_OPTIONS="detect_leaks=0:abort_on_error=1",
    )  # fmt: skip
    assert found["set"] == library.instruction_set()
