"""Inter-token latency from whole decode steps."""

from mlx_worker.supervisor.requests.token_stats import TokenStats
from mlx_worker.wire.output import RowOutput


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def rows(*ids: int) -> list[RowOutput]:
    return [RowOutput(id_, [7], "word") for id_ in ids]


def test_a_step_is_the_latency_of_every_row_that_was_in_the_one_before() -> None:
    clock = Clock()
    pace = TokenStats(clock)
    pace.on_step(rows(1, 2))
    clock.now += 2
    pace.on_step(rows(1, 2, 3))
    clock.now += 1
    pace.on_step(rows(3, 4))
    assert pace.tokens == 7
    assert sum(times for _, times in list(pace.inter_token.cumulative())[-1:]) == 3
    assert pace.inter_token.total == 2 + 2 + 1


def test_several_short_steps_that_come_as_one_have_shared_its_time() -> None:
    clock = Clock()
    pace = TokenStats(clock)
    pace.on_step(rows(1, 2))
    clock.now += 3
    pace.on_step([RowOutput(1, [7, 7, 7], "words"), RowOutput(2, [7], "word")])
    assert pace.tokens == 6
    assert sum(times for _, times in list(pace.inter_token.cumulative())[-1:]) == 4
    assert pace.inter_token.total == 4 * 1


def test_the_time_in_which_nobody_spoke_is_nobodys_latency() -> None:
    clock = Clock()
    pace = TokenStats(clock)
    pace.on_step(rows(1))
    clock.now += 3600
    pace.on_step(rows(2))
    assert pace.inter_token.total == 0
    assert pace.tokens == 2
