"""Rows that draft, beside KV on disk: nothing of a wrong draft is stored, and restored rows draft.

What a drafting engine leaves on disk is compared bit for bit with what an engine without drafts
leaves, and with what the model computes when it reads the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_worker.engine.engine import NO_LADDER
from mlx_worker.engine.history.memory import TurnPlace
from mlx_worker.engine.kv.disk.entry_writer import REST_SECONDS
from mlx_worker.engine.prompt import Prompt
from mlx_worker.kv_disk.files.records import Kind
from mlx_worker.wire.messages import Started
from mlx_worker.wire.output import Done, StepOutput
from mlx_worker.wire.request import ChatRequest, EndConditions, Sampling
from tests.drafting_harness import FREE, FewWords, with_mistakes
from tests.engine.kv.disk.tier_harness import Seat, some_tokens
from tests.rounds import rounds, variants

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TOKENS = 40
SAMPLED = Sampling(seed=11, temperature=0.9, top_p=0.95)
PLACE = TurnPlace("<|im_start|>", bytes(range(16)), "assistant\n", "normal")


@dataclass
class Chat:
    """One request in a seat, and what came of it."""

    tokens: list[int]
    request: ChatRequest = field(default_factory=lambda: ChatRequest([], SAMPLED, TOKENS))
    prediction: tuple[int, ...] = ()
    cancelled_at: int | None = None
    answer: list[int] = field(default_factory=list)
    from_disk: int = 0
    done: Done | None = None


def play(seat: Seat, chats: Sequence[Chat], replay: Sequence[int] = ()) -> None:
    """Have all chats answered side by side."""
    messages: list[Any] = []
    for id_, chat in enumerate(chats):
        prompt = Prompt(chat.tokens, 0, "", prediction=chat.prediction, answer_place=PLACE)
        messages.append(
            seat.engine.admit(id_, chat.request, prompt, replay=list(replay), in_session=True)
        )
    while seat.engine.active:
        for message in [*messages, *seat.engine.step()]:
            match message:
                case StepOutput():
                    for row in message.rows:
                        chats[row.id].answer += row.tokens
                case Started():
                    chats[message.id].from_disk = message.disk_tokens
                case Done():
                    chats[message.id].done = message
                case _:
                    pass
        messages = [
            seat.engine.cancel(id_)
            for id_, chat in enumerate(chats)
            if chat.done is None
            and chat.cancelled_at is not None
            and len(chat.answer) >= chat.cancelled_at
        ]
        for done in filter(None, messages):
            chats[done.id].done = done


@pytest.fixture
def new_seat(tmp_path: Path) -> Callable[..., Seat]:
    """Make seats, each with a folder of its own."""
    seats: list[Seat] = []

    def make(*, drafts: bool, name: str = "nano") -> Seat:
        folder = tmp_path / str(len(seats))
        folder.mkdir()
        seats.append(Seat(name, folder, FREE if drafts else NO_LADDER))
        return seats[-1]

    return make


def chats_of(seat: Seat, lengths: Sequence[int], share: float) -> list[Chat]:
    """Chats that bring their own answers as predictions, mistakes included."""
    chats = [Chat(some_tokens(length, length)) for length in lengths]
    play(seat, chats)
    predictions = [with_mistakes(chat.answer, place, share) for place, chat in enumerate(chats)]
    return [
        Chat(chat.tokens, prediction=made) for chat, made in zip(chats, predictions, strict=True)
    ]


def without_answers(chats: Sequence[Chat]) -> list[Chat]:
    return [replace(chat, answer=[], done=None, from_disk=0) for chat in chats]


def stopped(seat: Seat, chat: Chat, place: int) -> Chat:
    """The chat with a stop string that the predicted answer reaches at about this token."""
    text = seat.tokenizer.decode(list(chat.prediction[: place + 1]))
    request = ChatRequest([], SAMPLED, TOKENS, stop=[text[-3:]])
    return replace(chat, request=request, answer=[])


def written(seat: Seat) -> dict[tuple[int, ...], list[Any]]:
    """Return the bytes on disk of every entry, which are those of the entry in memory."""
    seat.idle(REST_SECONDS)
    found: dict[tuple[int, ...], list[Any]] = {}
    for entry in seat.entries:
        size = len(entry.tokens)
        assert {layer.size() for layer in entry.kv} == {size}
        assert seat.on_disk(entry.tokens) == size
        found[entry.tokens] = seat.bits(seat.restored(entry.tokens), size)
        assert found[entry.tokens] == seat.bits(entry.kv, size)
    return found


def computed(seat: Seat, tokens: Sequence[int]) -> list[Any]:
    """Return the bytes of the KV of these tokens, read at once by the model alone."""
    cache = make_prompt_cache(seat.model)
    seat.model(mx.array([list(tokens)]), cache=cache)
    return seat.bits(cache, len(tokens))


# Not "latent", whose wide passes move logits: such a model does not draft (`rounding.py`).
@pytest.mark.parametrize("name", variants(["nano", "tiny"], ["nano"]))
def test_records_of_rows_that_draft_are_those_of_rows_that_do_not(
    name: str, new_seat: Callable[..., Seat]
) -> None:
    plain, drafting = new_seat(drafts=False, name=name), new_seat(drafts=True, name=name)
    chats = chats_of(new_seat(drafts=False, name=name), (300, 20, 75, 140, 9), share=0.15)
    chats[1] = stopped(plain, chats[1], 12)
    end = EndConditions(stop_token_ids=[chats[2].prediction[10]])
    chats[2] = replace(chats[2], request=ChatRequest([], SAMPLED, TOKENS, ends=end))
    for seat in (plain, drafting):
        play(seat, played := without_answers(chats))
        assert [chat.done and chat.done.finish for chat in played[:3]] == ["length", "stop", "stop"]
    speculation = drafting.engine.speculation
    assert 0 < speculation.accepted < speculation.drafted
    expected, found = written(plain), written(drafting)
    assert found == expected
    for tokens, bits in found.items():
        assert bits == computed(drafting, tokens)
    assert _turns(drafting) == _turns(plain)
    assert None not in _turns(plain).values()
    assert _turns_on_disk(plain) == _turns_on_disk(drafting) != set()


def _turns(seat: Seat) -> dict[tuple[int, ...], tuple[bytes, str, int] | None]:
    """Return what is remembered of the answers among the tokens of each entry."""
    return {
        entry.tokens: (entry.turns.answer.tokens, entry.turns.answer.stop, entry.turns.begin)
        if entry.turns and entry.turns.answer
        else None
        for entry in seat.entries
    }


def _turns_on_disk(seat: Seat) -> set[Any]:
    found: set[Any] = set()

    def add(address: Any, _: object) -> bool:
        found.add(address)
        return True

    list(seat.tier.store.load_all(Kind.TURN, add))
    return found


def test_text_that_ends_within_a_run_leaves_the_kv_up_to_its_end(
    new_seat: Callable[..., Seat],
) -> None:
    seat = new_seat(drafts=True)
    chats = chats_of(new_seat(drafts=False), range(20, 28), share=0)
    played = [stopped(seat, chat, 12 + place) for place, chat in enumerate(chats)]
    play(seat, played)
    assert [chat.done and chat.done.finish for chat in played] == ["stop"] * len(played)
    found = written(seat)
    assert found.keys() == {(*chat.tokens, *chat.answer) for chat in played}
    for tokens, bits in found.items():
        assert bits == computed(seat, tokens)


@pytest.mark.parametrize("count", variants(range(1, 24), default=(5,)))
def test_row_cancelled_at_any_token_leaves_the_kv_of_what_clients_have(
    count: int, new_seat: Callable[..., Seat]
) -> None:
    seat = new_seat(drafts=True)
    (chat, other) = chats_of(new_seat(drafts=False), (60, 20), share=0.1)
    played = replace(chat, cancelled_at=count)
    play(seat, [played, replace(other)])
    assert played.done is not None
    assert played.done.finish == "cancelled"
    sent = (*played.tokens, *played.answer)
    found = written(seat)
    assert sent in found
    assert found[sent] == computed(seat, sent)


@pytest.mark.parametrize("share", variants([0.0, 0.2], [0.2]))
def test_restored_rows_draft_and_answer_as_rows_without_a_cache(
    share: float, new_seat: Callable[..., Seat]
) -> None:
    seat, plain = new_seat(drafts=True), new_seat(drafts=False)
    first = chats_of(plain, (280, 30), share)
    play(seat, first)
    later = [
        Chat([*chat.tokens, *chat.answer, *some_tokens(25, place)])
        for place, chat in enumerate(first)
    ]
    plain.engine.clear_cache()
    play(plain, later)
    predictions = [with_mistakes(chat.answer, place, share) for place, chat in enumerate(later)]
    seat.writer.finish(60)
    seat.close()
    seat.open()
    again = [
        Chat(chat.tokens, prediction=made) for chat, made in zip(later, predictions, strict=True)
    ]
    play(seat, again)
    assert [chat.answer for chat in again] == [chat.answer for chat in later]
    assert again[0].from_disk >= 256
    assert seat.engine.speculation.accepted > TOKENS / 2
    for tokens, bits in written(seat).items():
        assert bits == computed(seat, tokens)


def test_restored_prefix_is_looked_up(new_seat: Callable[..., Seat]) -> None:
    seat, plain = new_seat(drafts=True), new_seat(drafts=False)
    for each in (seat, plain):
        each.model = FewWords(each.model, [300, 301, 302])
        each.close()
        each.open()
    prompt = some_tokens(290, 7)
    play(seat, [Chat(prompt, ChatRequest([], Sampling(0), 80))])
    seat.writer.finish(60)
    seat.close()
    seat.open()
    request = ChatRequest([], Sampling(0), 60)
    restored, expected = Chat([*prompt, 300, 301], request), Chat([*prompt, 300, 301], request)
    play(seat, [restored])
    play(plain, [expected])
    assert restored.from_disk >= 256
    assert seat.engine.speculation.accepted > 0
    assert restored.answer == expected.answer


def test_killed_at_any_token_the_next_process_goes_on_from_disk(
    new_seat: Callable[..., Seat],
) -> None:
    seat, plain = new_seat(drafts=True), new_seat(drafts=False)
    (chat,) = chats_of(plain, (300,), share=0.1)
    whole = replace(chat, prediction=())
    play(plain, [whole])
    play(seat, [replace(chat, answer=[])])
    seat.idle(REST_SECONDS)
    for known in range(1, TOKENS, rounds(13, 5, 1)):
        seat.die()
        seat.open()
        resumed = replace(chat, answer=[])
        play(seat, [resumed], replay=whole.answer[:known])
        assert resumed.answer == whole.answer[known:]
        assert resumed.from_disk >= 256
        seat.idle(REST_SECONDS)
        for entry in seat.entries:
            size = len(entry.tokens)
            assert seat.bits(entry.kv, size) == computed(seat, entry.tokens)
