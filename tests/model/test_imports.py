"""What importing the model loads."""

import json
import subprocess
import sys

LOADED = """
import dien_jax.model, json, sys
print(json.dumps(sorted(sys.modules)))
"""


def test_the_model_loads_no_solver_and_few_modules() -> None:
    shown = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, check=True).stdout
    modules = json.loads(shown)
    assert not [name for name in modules if name.partition(".")[0] in ("scipy", "sklearn")]
    ours = [name for name in modules if name.partition(".")[0] == "dien_jax"]
    assert len(ours) <= 26, ours
