"""The train step on several devices: ``cases_step.py``, which may run beside the other files."""

from pathlib import Path

import pytest
from support.eight_devices import MARKS, run_cases

pytestmark = [pytest.mark.long, pytest.mark.first, pytest.mark.repository]


@pytest.mark.parametrize("marks", MARKS)
def test_step_on_eight_devices(marks: str) -> None:
    run_cases(Path(__file__).with_name("cases_step.py"), marks)
