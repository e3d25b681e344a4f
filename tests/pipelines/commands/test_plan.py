"""`make plan`: the sum of the times, in words."""

from pipelines.commands.plan import total
from pipelines.output import duration
from pipelines.status import StageStatus, State


def test_the_time_is_that_of_the_stages_that_would_run() -> None:
    def stage(name: str, state: State, estimate: float | None) -> StageStatus:
        return StageStatus(name, state, "", None, None, 1, estimate)

    statuses = [stage("a", "stale", 200.0), stage("b", "missing", None), stage("c", "fresh", 5.0)]
    assert total(statuses) == "2 of 3 stages would run: about 3 min 20 s; unknown for b, never timed."
    assert total(statuses[2:]) == "All is fresh."
    back = stage("d", "recalled", 0.0)
    assert total([*statuses[:1], back]).endswith("about 3 min 20 s. 1 stage comes back without a run.")
    assert total([*statuses[2:], back, back]) == "Nothing would run: 2 stages come back without a run."
    assert [duration(seconds) for seconds in (None, 8.2, 61, 7500)] == ["?", "8 s", "1 min 01 s", "2 h 05 min"]
