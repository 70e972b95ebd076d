"""The order of reading, without a model."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mlx_worker.engine.kv.prefix import WORTH_FETCHING, common_prefix
from mlx_worker.engine.prefill import (
    FIRST_CHUNK,
    FIRST_CHUNK_ALONE,
    LONG,
    LONG_READERS,
    READERS,
    SMALLEST_CHUNK,
    SMALLEST_CHUNK_ALONE,
    WORTH_WAITING,
    ChunkSizer,
    can_start_prefill,
    choose_segment_ends,
    find_prefix_leader,
    has_prefill_slot,
    min_prefix_to_reuse,
)
from mlx_worker.engine.prompt import Prompt
from mlx_worker.engine.sequence import Sequence
from tests.call_counter import Token, comparisons


def sequence(tokens: list[int], *, system_prefix: int = 0, read: int | None = None) -> Sequence:
    made = Sequence(1, Prompt(tokens, system_prefix, ""), None)
    if read is not None:
        made.uid, made.read = 1, read
        made.segment_ends = choose_segment_ends(made.prompt, 0, every_segment=True)
    return made


def unknown() -> int:
    return 0


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_a_common_prefix_is_as_long_as_it_can_be(a: list[int], b: list[int]) -> None:
    same = [x == y for x, y in zip(a, b, strict=False)]
    assert common_prefix(a, b) == [*same, False].index(False)


ONE = [sequence(list(range(5000)), read=0)]


def test_a_chunk_is_what_is_read_in_the_pause_and_longer_while_nobody_decodes() -> None:
    pace = ChunkSizer(0.1)
    assert pace.chunk_size(ONE, decoding=True) == FIRST_CHUNK
    assert pace.chunk_size(ONE, decoding=False) == FIRST_CHUNK_ALONE
    pace.record(64, 0.02)  # 3,200 tokens a second: 320 of them in the pause
    assert pace.chunk_size(ONE, decoding=True) == 256
    assert pace.chunk_size(ONE, decoding=False) == 2048
    for _ in range(8):
        pace.record(64, 0.4)  # it has become slower: 160 a second
    assert pace.chunk_size(ONE, decoding=True) == SMALLEST_CHUNK
    assert pace.chunk_size(ONE, decoding=False) == 128
    for _ in range(8):
        pace.record(16, 1.6)  # 10 a second
    assert pace.chunk_size(ONE, decoding=True) == SMALLEST_CHUNK
    assert pace.chunk_size(ONE, decoding=False) == SMALLEST_CHUNK_ALONE
    assert pace.chunk_size(ONE * 2, decoding=False) == SMALLEST_CHUNK_ALONE // 2


def test_a_step_that_read_nothing_tells_nothing_of_the_pace() -> None:
    pace = ChunkSizer(0.1)
    pace.record(0, 0.0)
    pace.record(0, 1.0)
    assert pace.chunk_size(ONE, decoding=True) == FIRST_CHUNK


def test_readers_share_one_chunk() -> None:
    pace = ChunkSizer(0.1)
    pace.record(1000, 0.1)
    assert pace.chunk_size(ONE * 4, decoding=True) * 4 == pace.chunk_size(ONE, decoding=True) == 512
    assert pace.chunk_size(ONE * 10_000, decoding=True) == SMALLEST_CHUNK
    assert pace.chunk_size([], decoding=True) == 512


def test_no_chunk_leaves_one_token_before_the_end_of_a_segment() -> None:
    pace = ChunkSizer(0.1)
    heads = [FIRST_CHUNK // 2 + left for left in (1, 2)]
    readers = [sequence(list(range(5000)), system_prefix=head, read=0) for head in heads]
    size = pace.chunk_size(readers, decoding=True)
    assert all(head - size != 1 for head in heads)
    assert size == FIRST_CHUNK // 2 + 2


def test_a_follower_waits_until_its_leader_has_read_what_they_share() -> None:
    leader = sequence([*range(100), 1], read=0)
    follower = sequence([*range(100), 2])
    find_prefix_leader(follower, [leader], any_length=True)
    assert (follower.prefix_leader, follower.shared_prefix) == (leader, 100)
    assert not can_start_prefill(follower, [leader], unknown)
    leader.read = 99
    assert not can_start_prefill(follower, [leader], unknown)
    leader.read = 100
    assert can_start_prefill(follower, [leader], unknown)


def test_a_leader_that_is_over_holds_nobody_up() -> None:
    leader = sequence([*range(100), 1], read=0)
    follower = sequence([*range(100), 2])
    find_prefix_leader(follower, [leader], any_length=True)
    leader.over = True
    assert can_start_prefill(follower, [leader], unknown)


def test_nobody_follows_for_a_few_tokens_or_for_what_was_resident() -> None:
    few = WORTH_WAITING - 1
    follower = sequence([*range(few), 2])
    find_prefix_leader(follower, [sequence([*range(few), 1], read=0)], any_length=True)
    resident = sequence([*range(100), 1], read=90)
    resident.cached = 90
    find_prefix_leader(follower, [resident], any_length=True)
    assert follower.prefix_leader is None


def test_the_best_leader_is_the_one_that_shares_most() -> None:
    near, far = sequence([*range(80), 1], read=0), sequence([*range(200), 1], read=0)
    follower = sequence([*range(200), 2])
    find_prefix_leader(follower, [near, far], any_length=True)
    assert follower.prefix_leader is far


def test_those_who_share_no_more_than_was_found_cost_a_search_next_to_nothing() -> None:
    head = range(500)
    others = [sequence([*map(Token, [*head, i])], read=0) for i in range(1000, 1100)]
    follower = sequence([*map(Token, [*head, 1])])
    find_prefix_leader(follower, others[:1], any_length=True)
    assert (follower.prefix_leader, follower.shared_prefix) == (others[0], len(head))
    rest = comparisons(lambda: find_prefix_leader(follower, others[1:], any_length=True))
    assert 0 < rest <= len(others)
    assert follower.prefix_leader is others[0]


def test_kv_that_cannot_be_cut_is_shared_by_whole_segments_of_the_leaders_only() -> None:
    leader = sequence([*range(200), 1], system_prefix=80, read=0)
    leader.prompt = replace(leader.prompt, segment_ends=(150, 180))
    head, history, less = (sequence([*range(end), 2], system_prefix=70) for end in (149, 160, 79))
    for follower in (head, history, less):
        find_prefix_leader(follower, [leader], any_length=False)
    assert (head.prefix_leader, head.shared_prefix) == (leader, 80)
    assert (history.prefix_leader, history.shared_prefix) == (leader, 150)
    assert less.prefix_leader is None


def test_reading_stops_where_segments_end_and_never_for_one_token() -> None:
    prompt = Prompt(list(range(100)), 40, "", (41, 60, 62, 99))
    assert choose_segment_ends(prompt, 0, every_segment=True) == [40, 60, 62, 99]
    assert choose_segment_ends(prompt, 39, every_segment=True) == [41, 60, 62, 99]
    assert choose_segment_ends(prompt, 60, every_segment=True) == [62, 99]
    assert choose_segment_ends(prompt, 0, every_segment=False) == [40]
    assert choose_segment_ends(prompt, 39, every_segment=False) == []


def test_long_prompts_leave_room_for_short_ones() -> None:
    long = [sequence(list(range(LONG * 4)), read=0) for _ in range(LONG_READERS)]
    assert not can_start_prefill(sequence(list(range(LONG * 2))), long, unknown)
    assert can_start_prefill(sequence(list(range(LONG * 2))), long[1:], unknown)
    assert can_start_prefill(sequence(list(range(10))), long, unknown)


def test_a_long_prompt_that_is_mostly_resident_is_a_short_one() -> None:
    long = [sequence(list(range(LONG * 4)), read=0) for _ in range(LONG_READERS)]
    assert can_start_prefill(sequence(list(range(LONG * 2))), long, lambda: LONG * 2 - 10)


def test_few_resident_tokens_are_read_again_unless_they_are_a_whole_head() -> None:
    assert min_prefix_to_reuse(0) == WORTH_FETCHING
    assert min_prefix_to_reuse(5) == 5
    assert min_prefix_to_reuse(WORTH_FETCHING * 9) == WORTH_FETCHING


def test_a_row_with_one_token_left_reads_no_longer() -> None:
    prompt = list(range(10))
    assert sequence(prompt, read=8).reading
    assert not sequence(prompt, read=9).reading


def test_readers_are_bounded() -> None:
    short = [sequence(list(range(10)), read=0) for _ in range(READERS)]
    assert not has_prefill_slot(short)
    assert has_prefill_slot(short[1:])
