"""Several devices: the files ``cases_*.py`` of this folder, but for those of the step."""

from pathlib import Path

import pytest
from support.eight_devices import MARKS, run_cases

pytestmark = [pytest.mark.long, pytest.mark.first, pytest.mark.repository]

HERE = Path(__file__).parent
CASES = sorted({file.stem for file in HERE.glob("cases_*.py")} - {"cases_step"})


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("cases", CASES)
def test_on_eight_devices(cases: str, marks: str) -> None:
    run_cases(HERE / f"{cases}.py", marks)
