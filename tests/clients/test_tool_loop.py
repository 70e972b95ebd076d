"""A tool loop of 20 turns in each agent: no turn is refused, and what was read again is recorded.

The calls are compact JSON, as models write it; templates write the same calls with blanks.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.clients.seat import KEY
from tests.clients.turns import ReadAgain, requests_since, turns_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.clients.conftest import Seats, Served
    from tests.clients.seat import Seat
    from tests.clients.turns import Turn

pytestmark = pytest.mark.clients

TURNS: Final = 20
DONE: Final = "all is done"
AUTHORIZED: Final[Mapping[str, str]] = {"Authorization": f"Bearer {KEY}"}


def script(tool: str, arguments: Callable[[int], dict[str, Any]]) -> str:
    """Ask for a row of different calls, and then for the last words."""
    calls = (json.dumps(arguments(turn), separators=(",", ":")) for turn in range(TURNS))
    return f"Please. {' '.join(f'[[call: {tool} {call}]]' for call in calls)} [[say: {DONE}]]"


def shell_command(turn: int) -> str:
    return f"echo {turn}, and a few more words of a result"


def claude_code(seat: Seat) -> str:
    prompt = script(
        "Bash", lambda turn: {"command": shell_command(turn), "description": f"Say {turn}"}
    )
    return seat.shell("-p", prompt, "--output-format", "json", "--allowedTools", "Bash").whole


def codex(seat: Seat) -> str:
    seat.place(".codex/config.toml")
    prompt = script("exec_command", lambda turn: {"cmd": shell_command(turn)})
    return seat.run("codex", "exec", "--skip-git-repo-check", "--json", prompt).whole


def opencode(seat: Seat) -> str:
    seat.place(".config/opencode/opencode.json")
    prompt = script(
        "bash", lambda turn: {"command": shell_command(turn), "description": f"Say {turn}"}
    )
    return seat.run("opencode", "run", "--format", "json", stdin=prompt).whole


AGENTS: Final[Mapping[str, Callable[[Seat], str]]] = {
    "claude-code": claude_code,
    "codex": codex,
    "opencode": opencode,
}


class Watch:
    """The requests of the node since the watch began."""

    def __init__(self, served: Served) -> None:
        self._node = served.running
        self._known = [row["id"] for row in requests_since(self._node, AUTHORIZED, ())]

    def turns(self) -> list[Turn]:
        """Return the turns of the loop, of which none was refused."""
        rows = self._rows()
        assert [(row["status"], row["error"]) for row in rows] == [(200, None)] * len(rows)
        return turns_of(rows)

    def sessions(self) -> set[str | None]:
        """Return the sessions that the requests named."""
        return {row["session"] for row in self._rows()}

    def _rows(self) -> list[dict[str, Any]]:
        return requests_since(self._node, AUTHORIZED, self._known)


@pytest.mark.parametrize("name", AGENTS)
def test_a_tool_loop_of_20_turns(
    name: str, seat_of: Seats, served: Served, read_again: ReadAgain
) -> None:
    seat = seat_of(name, label=f"{name} (loop)")
    watch = Watch(served)
    said = AGENTS[name](seat)
    assert DONE in said, said
    turns = watch.turns()
    assert len(turns) > TURNS, said
    read_again.add(name, turns)


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_names_one_session_for_its_loop(name: str, seat_of: Seats, served: Served) -> None:
    seat = seat_of(name, label=f"{name} (session)")
    watch = Watch(served)
    AGENTS[name](seat)
    (session,) = watch.sessions()
    assert session is not None
    assert not session.startswith("user-")


LOOK: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look there.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}


def test_a_tool_loop_over_plain_http(served: Served, read_again: ReadAgain) -> None:
    """The loop that agents have, without an agent: the figures are the node's own."""
    watch = Watch(served)
    prompt = script("look", lambda turn: {"at": f"place {turn}"})
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You look at places."},
        {"role": "user", "content": prompt},
    ]
    headers = {**AUTHORIZED, "X-Session-Id": "plain loop"}
    for _ in range(TURNS):
        message = ask(served, messages, headers)
        (call,) = message["tool_calls"]
        place = json.loads(call["function"]["arguments"])["at"]
        result = {"role": "tool", "tool_call_id": call["id"], "content": f"{place} is wide"}
        messages += [message, result]
    assert ask(served, messages, headers)["content"].strip() == DONE
    turns = watch.turns()
    assert len(turns) == TURNS + 1
    assert all(0 < turn.read <= turn.prompt for turn in turns)
    assert all(turn.again <= turn.read for turn in turns)
    read_again.add("plain HTTP", turns)


def ask(
    served: Served, messages: list[dict[str, Any]], headers: Mapping[str, str]
) -> dict[str, Any]:
    """Return the message of the next answer."""
    body = {"model": "talker", "messages": messages, "tools": [LOOK], "max_tokens": 200}
    answer = served.running.ask("/v1/chat/completions", body, headers=headers)
    assert answer.status == 200, answer.json
    message: dict[str, Any] = answer.json["choices"][0]["message"]
    return message
