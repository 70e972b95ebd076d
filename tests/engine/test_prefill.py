"""The order of reading, without a model."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mlx_worker.engine.prefill import (
    FIRST_CHUNK,
    LARGEST_CHUNK,
    LONG,
    LONG_READERS,
    READERS,
    SMALLEST_CHUNK,
    WORTH_WAITING,
    Pace,
    cuts,
    follow,
    has_room,
    least_fetched,
    may_start,
)
from mlx_worker.engine.prefix import WORTH_FETCHING, common_prefix
from mlx_worker.engine.prompt import Prompt
from mlx_worker.engine.sequence import Sequence
from tests.call_counter import Token, comparisons


def sequence(tokens: list[int], *, head: int = 0, read: int | None = None) -> Sequence:
    made = Sequence(1, Prompt(tokens, head, ""), None)
    if read is not None:
        made.uid, made.read = 1, read
        made.cuts = cuts(made.prompt, 0, every_segment=True)
    return made


def unknown() -> int:
    return 0


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_a_common_prefix_is_as_long_as_it_can_be(a: list[int], b: list[int]) -> None:
    same = [x == y for x, y in zip(a, b, strict=False)]
    assert common_prefix(a, b) == [*same, False].index(False)


ONE = [sequence(list(range(5000)), read=0)]


def test_a_chunk_is_what_is_read_in_the_pause_and_longer_while_nobody_decodes() -> None:
    pace = Pace(0.1)
    assert pace.chunk(ONE, decoding=True) == FIRST_CHUNK
    assert pace.chunk(ONE, decoding=False) == LARGEST_CHUNK
    pace.took(64, 0.02)  # 3,200 tokens a second: 320 of them in the pause
    assert pace.chunk(ONE, decoding=True) == 256
    assert pace.chunk(ONE, decoding=False) == 2048
    for _ in range(8):
        pace.took(64, 0.4)  # it has become slower: 160 a second
    assert pace.chunk(ONE, decoding=True) == SMALLEST_CHUNK
    assert pace.chunk(ONE, decoding=False) == 128


def test_a_step_that_read_nothing_tells_nothing_of_the_pace() -> None:
    pace = Pace(0.1)
    pace.took(0, 0.0)
    pace.took(0, 1.0)
    assert pace.chunk(ONE, decoding=True) == FIRST_CHUNK


def test_readers_share_one_chunk() -> None:
    pace = Pace(0.1)
    pace.took(1000, 0.1)
    assert pace.chunk(ONE * 4, decoding=True) * 4 == pace.chunk(ONE, decoding=True) == 512
    assert pace.chunk(ONE * 10_000, decoding=True) == SMALLEST_CHUNK
    assert pace.chunk([], decoding=True) == 512


def test_no_chunk_leaves_one_token_before_the_end_of_a_segment() -> None:
    pace = Pace(0.1)
    heads = [FIRST_CHUNK // 2 + left for left in (1, 2)]
    readers = [sequence(list(range(5000)), head=head, read=0) for head in heads]
    size = pace.chunk(readers, decoding=True)
    assert all(head - size != 1 for head in heads)
    assert size == FIRST_CHUNK // 2 + 2


def test_a_follower_waits_until_its_leader_has_read_what_they_share() -> None:
    leader = sequence([*range(100), 1], read=0)
    follower = sequence([*range(100), 2])
    follow(follower, [leader], any_length=True)
    assert (follower.leader, follower.shared) == (leader, 100)
    assert not may_start(follower, [leader], unknown)
    leader.read = 99
    assert not may_start(follower, [leader], unknown)
    leader.read = 100
    assert may_start(follower, [leader], unknown)


def test_a_leader_that_is_over_holds_nobody_up() -> None:
    leader = sequence([*range(100), 1], read=0)
    follower = sequence([*range(100), 2])
    follow(follower, [leader], any_length=True)
    leader.over = True
    assert may_start(follower, [leader], unknown)


def test_nobody_follows_for_a_few_tokens_or_for_what_was_resident() -> None:
    few = WORTH_WAITING - 1
    follower = sequence([*range(few), 2])
    follow(follower, [sequence([*range(few), 1], read=0)], any_length=True)
    resident = sequence([*range(100), 1], read=90)
    resident.cached = 90
    follow(follower, [resident], any_length=True)
    assert follower.leader is None


def test_the_best_leader_is_the_one_that_shares_most() -> None:
    near, far = sequence([*range(80), 1], read=0), sequence([*range(200), 1], read=0)
    follower = sequence([*range(200), 2])
    follow(follower, [near, far], any_length=True)
    assert follower.leader is far


def test_those_who_share_no_more_than_was_found_cost_a_search_next_to_nothing() -> None:
    head = range(500)
    others = [sequence([*map(Token, [*head, i])], read=0) for i in range(1000, 1100)]
    follower = sequence([*map(Token, [*head, 1])])
    follow(follower, others[:1], any_length=True)
    assert (follower.leader, follower.shared) == (others[0], len(head))
    rest = comparisons(lambda: follow(follower, others[1:], any_length=True))
    assert 0 < rest <= len(others)
    assert follower.leader is others[0]


def test_kv_that_cannot_be_cut_is_shared_by_whole_segments_of_the_leaders_only() -> None:
    leader = sequence([*range(200), 1], head=80, read=0)
    leader.prompt = replace(leader.prompt, borders=(150, 180))
    head, history, less = (sequence([*range(end), 2], head=70) for end in (149, 160, 79))
    for follower in (head, history, less):
        follow(follower, [leader], any_length=False)
    assert (head.leader, head.shared) == (leader, 80)
    assert (history.leader, history.shared) == (leader, 150)
    assert less.leader is None


def test_reading_stops_where_segments_end_and_never_for_one_token() -> None:
    prompt = Prompt(list(range(100)), 40, "", (41, 60, 62, 99))
    assert cuts(prompt, 0, every_segment=True) == [40, 60, 62, 99]
    assert cuts(prompt, 39, every_segment=True) == [41, 60, 62, 99]
    assert cuts(prompt, 60, every_segment=True) == [62, 99]
    assert cuts(prompt, 0, every_segment=False) == [40]
    assert cuts(prompt, 39, every_segment=False) == []


def test_long_prompts_leave_room_for_short_ones() -> None:
    long = [sequence(list(range(LONG * 4)), read=0) for _ in range(LONG_READERS)]
    assert not may_start(sequence(list(range(LONG * 2))), long, unknown)
    assert may_start(sequence(list(range(LONG * 2))), long[1:], unknown)
    assert may_start(sequence(list(range(10))), long, unknown)


def test_a_long_prompt_that_is_mostly_resident_is_a_short_one() -> None:
    long = [sequence(list(range(LONG * 4)), read=0) for _ in range(LONG_READERS)]
    assert may_start(sequence(list(range(LONG * 2))), long, lambda: LONG * 2 - 10)


def test_few_resident_tokens_are_read_again_unless_they_are_a_whole_head() -> None:
    assert least_fetched(0) == WORTH_FETCHING
    assert least_fetched(5) == 5
    assert least_fetched(WORTH_FETCHING * 9) == WORTH_FETCHING


def test_a_row_with_one_token_left_reads_no_longer() -> None:
    prompt = list(range(10))
    assert sequence(prompt, read=8).reading
    assert not sequence(prompt, read=9).reading


def test_readers_are_bounded() -> None:
    short = [sequence(list(range(10)), read=0) for _ in range(READERS)]
    assert not has_room(short)
    assert has_room(short[1:])
