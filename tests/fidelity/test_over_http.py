"""The same through a running node: HTTP, two processes, many clients at once."""

from __future__ import annotations

import json
import random
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.wire.request import Sampling
from tests.fidelity import tally
from tests.fidelity.reference import Ask, Model
from tests.fidelity.test_fidelity import CASES
from tests.processes import DEADLINE, RunningNode, running_node
from tests.sse import DONE, EventParser
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.fidelity


CLIENTS = 8
ROUND = 24
"""Requests that share their system prompts, and between whose rounds the cache may be cleared."""


@pytest.fixture(scope="module")
def node(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node that reads the text of each prompt, as mlx_lm does."""
    folder = tmp_path_factory.mktemp("node")
    with running_node(folder, {"tiny": tiny}, extra="remember_turns = false") as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return Model.load(tiny)


@dataclass(frozen=True)
class Chat:
    """One request of a client, as it goes over the wire."""

    messages: list[dict[str, str]]
    settings: dict[str, Any]
    stop: tuple[str, ...]
    streamed: bool
    hears: int | None
    """Pieces after which the client leaves; None: it stays."""

    def ask(self, model: Model) -> Ask:
        rendered = model.tokenizer.apply_chat_template(self.messages, add_generation_prompt=True)
        settings = {**self.settings}
        max_tokens = settings.pop("max_tokens")
        return Ask(
            tuple(rendered),
            max_tokens=max_tokens,
            sampling=Sampling(**{"seed": 0, **settings}),
            stop=self.stop,
        )


def words(draw: random.Random, most: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))


def settings(draw: random.Random) -> dict[str, Any]:
    chosen: dict[str, Any] = {"max_tokens": draw.randint(1, 32), "temperature": 0.0}
    if draw.random() < 0.4:
        chosen |= {"temperature": draw.choice([0.7, 1.0, 1.3]), "seed": draw.getrandbits(62)}
        chosen |= draw.choice([{}, {"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.05}])
    if draw.random() < 0.2:
        chosen |= {"repetition_penalty": 1.2, "frequency_penalty": 0.5}
    return chosen


def chats(draw: random.Random, model: Model, count: int) -> Iterator[Chat]:
    """First turns, later turns of the same conversations, and repeats."""
    systems = [words(draw, most) for most in (3, 80, 300)]
    earlier: list[Chat] = []
    for _ in range(count):
        kind = draw.random()
        if earlier and kind < 0.3:
            before = draw.choice(earlier)
            said = {"role": "assistant", "content": model.text(before.ask(model))[0]}
            messages = [*before.messages, said, {"role": "user", "content": words(draw, 20)}]
        elif earlier and kind < 0.45:
            messages = draw.choice(earlier).messages
        else:
            messages = [{"role": "user", "content": words(draw, 60)}]
            if draw.random() < 0.8:
                messages.insert(0, {"role": "system", "content": draw.choice(systems)})
        streamed = draw.random() < 0.6
        leaves = streamed and draw.random() < 0.15
        chat = Chat(messages, settings(draw), (), streamed, draw.randint(1, 5) if leaves else None)
        if draw.random() < 0.25 and (text := model.text(chat.ask(model))[0]):
            at = draw.randrange(len(text))
            stop = (text[at : at + draw.randint(1, 8)], f"{text[-3:]}#")
            chat = Chat(messages, chat.settings, stop, streamed, chat.hears)
        earlier.append(chat)
        yield chat


def said(node: RunningNode, chat: Chat) -> tuple[str, str | None]:
    """The text that a client of this node gets, and why it ends."""
    body = {"model": "tiny", "messages": chat.messages, **chat.settings, "stream": chat.streamed}
    if chat.stop:
        body["stop"] = list(chat.stop)
    if chat.streamed:
        return heard(node, body, chat.hears)
    answer = node.ask("/v1/chat/completions", body)
    assert answer.status == 200, answer.body
    (choice,) = answer.json["choices"]
    return choice["message"]["content"] or "", choice["finish_reason"]


def heard(node: RunningNode, body: dict[str, Any], hears: int | None) -> tuple[str, str | None]:
    text, pieces, finish, parser = "", 0, None, EventParser()
    request = urllib.request.Request(
        f"{node.url}/v1/chat/completions", data=json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
        for event in map(parser.feed, response):
            if event is None or event.data == DONE:
                continue
            (choice,) = event.data["choices"]
            text += choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
            pieces += 1
            if hears is not None and pieces > hears:
                return text, None
    return text, finish


def difference(model: Model, chat: Chat, got: tuple[str, str | None]) -> str | None:
    text, finish = model.text(chat.ask(model))
    right = text.startswith(got[0]) if got[1] is None else got == (text, finish)
    if not right and model.is_tied_text(chat.ask(model), got[0]):
        tally.ties["tiny over HTTP"] += 1
        return None
    return None if right else f"{got} is not {(text, finish)}: {chat}"


@pytest.mark.timeout(0)
def test_clients_at_once_each_get_what_mlx_lm_says_alone(node: RunningNode, model: Model) -> None:
    draw = random.Random(3)
    rounds = max(2, CASES // 10 // ROUND)
    with ThreadPoolExecutor(CLIENTS) as clients:
        for _ in range(rounds):
            asked = list(chats(draw, model, ROUND))
            got = list(clients.map(lambda chat: said(node, chat), asked))
            wrong = [
                it
                for chat, one in zip(asked, got, strict=True)
                if (it := difference(model, chat, one))
            ]
            tally.note("tiny over HTTP", len(asked), len(wrong))
            assert not wrong, "\n".join(wrong)
            if draw.random() < 0.3:
                assert node.ask("/v1/cache", method="DELETE").status == 200


def test_one_seed_is_one_text_fifty_times_over_http(node: RunningNode, model: Model) -> None:
    draw = random.Random(5)
    message = {"role": "user", "content": words(draw, 20)}
    same = Chat([message], {"max_tokens": 16, "temperature": 1.0, "seed": 42}, (), False, None)
    strangers = list(chats(draw, model, 50))
    asked = [chat for stranger in strangers for chat in (same, stranger)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        got = list(clients.map(lambda chat: said(node, chat), asked))
    assert {one for chat, one in zip(asked, got, strict=True) if chat is same} == {
        model.text(same.ask(model))
    }
    wrong = [
        it for chat, one in zip(asked, got, strict=True) if (it := difference(model, chat, one))
    ]
    tally.note("tiny over HTTP", len(asked), len(wrong))
    assert not wrong, "\n".join(wrong)
