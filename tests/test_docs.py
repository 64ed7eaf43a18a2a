"""The code in the documentation runs, block after block, as a reader would paste it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["docs/modules.md", "kernels/README.md"])
def test_code_blocks_run(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    namespace: dict = {"__name__": page}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}[{number}]", "exec"), namespace)
