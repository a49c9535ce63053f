import pytest

from benchmarks.serial_lines import CASES, Case, run_case

FRAMES = 50_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_damaged_lines_cost_no_intact_frame_and_pass_only_as_the_checksum_allows(
    case: Case,
) -> None:
    outcome = run_case(case, round(FRAMES * case.share), seed=7)
    assert outcome.damaged > 0
    assert outcome.required > 0.97 * outcome.frames
    assert outcome.missing == 0
    assert outcome.false <= outcome.bound
