"""The commands of docs/scale.md start several processes, which find each other."""

import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest
from support import tiny_run
from support.several_processes import NEEDS_NEWER_JAX, free_port, run_together

from dien_jax.training.hosts import MISTAKE

pytestmark = [pytest.mark.long, pytest.mark.newest, pytest.mark.repository]

PAGE = Path(__file__).parents[2] / "docs/scale.md"
START = ["python", "-m", "dien_jax.train"]
REFUSED = [*tiny_run.SETTINGS, "--train.batch-size=15"]
"""Settings that processes refuse once they have found each other."""
MESSAGE = "train.batch_size must be a multiple of the 2 processes"


@NEEDS_NEWER_JAX
def test_two_shells_find_each_other(data: Path, tmp_path: Path) -> None:
    folder, port, given = tmp_path / "both", free_port(), []
    names = {"data": str(data), "runs/both": str(folder), "localhost:5000": f"localhost:{port}"}
    section = PAGE.read_text().split("\n## Several hosts\n")[1]
    for block in re.findall("```sh\n(.*?)```", section, re.DOTALL)[:2]:
        words = shlex.split(block.replace("\\\n", ""))
        assert words[:3] == START
        given.append([*(names.get(word, word) for word in words[3:]), *REFUSED])
    assert [words[words.index("--distributed.process") + 1] for words in given] == ["0", "1"]
    for each in run_together(*given):
        assert (each.status, MESSAGE in each.said) == (MISTAKE, True), each


def test_the_script_for_slurm_is_shell() -> None:
    script = (PAGE.parents[1] / "deploy/slurm.sh").read_text()
    assert "--distributed.auto" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@NEEDS_NEWER_JAX
def test_tasks_of_slurm_find_each_other(data: Path, tmp_path: Path) -> None:
    """By the variables that Slurm gives two tasks; JAX makes the port of the job's number."""
    first = 2**16 - 2**12

    def is_free(port: int) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) != 0

    job = next(job for job in range(free_port() % 2**12, 2**13) if is_free(first + job % 2**12))

    def variables(process: int) -> dict[str, str]:
        common = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        return common | {"SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}

    given = ["--data", str(data), "--run-dir", str(tmp_path / "run"), *REFUSED]
    ended = run_together(*[[*given, "--distributed.auto"]] * 2, variables=variables)
    assert all(MESSAGE in each.said for each in ended), ended
