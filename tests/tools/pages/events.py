"""Write docs/reference/events.md: the kinds of events, with the facts that the source records."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import mlx_worker
from mlx_worker.api.admin.reload import Reloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

MEANING: Final = {
    "crash": "A model's process ended without being asked to, or was killed because it hung or"
    " sent garbage. `cause` is what went wrong first, `how` the exit status or signal in words;"
    " `lines` are the last lines that the process wrote to stderr; `in_flight` are the requests"
    " that it ran; the bytes are its last report of its memory.",
    "drain": "The node stops: it refuses new work, and what runs has `within_s` seconds to finish.",
    "evict": "A model was unloaded to make room for the model `by`.",
    "folder": "A model's folder can be loaded, but has something that `warning` names.",
    "kv events": "A model publishes KV events at `endpoint`, or does not; `off` says why not."
    " `warning` tells that other machines may read them.",
    "level": "The lowest level of log lines that are shown was changed to `shown_from`.",
    "loop held": "One step of the front took longer than 50 ms; `path` says which. `other` may "
    "also be a machine that was too busy to run the node.",
    "loop": "The loop guard ended a generation after `tokens` tokens, because it repeated the same"
    " `period` tokens again and again.",
    "memory limit": "Metal recommends fewer bytes (`working_set`) than `memory_limit` (`was`), or"
    " an NVIDIA GPU has less memory; the smaller limit counts.",
    "no room": "A model waits because it does not fit beside the models that are loaded.",
    "outage": "No model could be served for `exit_when_failed_for` seconds; the node ends.",
    "package replaced": "mlx-worker was replaced on the disk while the node runs, and a new process"
    " of the model runs the new code. `node` and `process` are the two versions; `cure` says what"
    " to do.",
    "pause": "The front did not run for `seconds`, 5 or more, as while the machine sleeps. No time"
    " limit counts them.",
    "poison": "A request was in flight at `max_crashes` crashes and is refused.",
    "pressure": "The models take more than the limit: caches are trimmed, idle models are"
    " unloaded, work is refused, or a process is replaced (`what`). `used` and `limit` are bytes.",
    "prompt parted": "A prompt does not continue the last one of its session and its answer. Both"
    " begin with the same `shared_tokens`; `lost_tokens` of the last one are of no use. `part` says"
    " what differs first: `system`, `tools`, `arguments` of the chat template, a `turn` or the"
    " `answer` (its number after the system prompt, and its role), the `template` itself, or a"
    " `prompt` without roles. Of many in a row few are events.",
    "reload": "The configuration was read again. The facts are ids of models: with `changed`"
    " settings the process stays, `restarted` ones get a new process. `needs_restart` are keys that"
    " only a restart of the node applies.",
    "resume": "A generation that lost its process continues in the next one. Its client has"
    " `after_tokens` tokens; it was in flight at `crashes` crashes.",
    "state": "A model's process changed its state, from `was` to `now`. `because` is the event that"
    " changed it, `reason` says more.",
    "weights changed": "An answer that lost its process cannot be continued, because the next"
    " process has other weights or other code. `was` and `now` are the fingerprints.",
}
"""What each kind of event says."""

_BEGINNING: Final = """\
# Events

Written by `python -m tests.tools.generated` from the calls that record events.

`GET /admin/events` lists the last 1,000 events, the oldest first; `?after=ID` only those after this
event. `GET /admin/events/stream` sends the same as server-sent events, then each event as it
happens, and goes on after `Last-Event-ID`. An event has `id`, `at` (ms since the epoch), `kind`,
`model` (empty for the whole node) and `facts`. Each event is a line in the log too.

| kind | what happened | facts |
|---|---|---|
"""


def page() -> str:
    """Return the page."""
    facts = recorded()
    assert facts.keys() == MEANING.keys(), "MEANING and the recorded kinds of events differ"
    rows = [
        f"| `{kind}` | {MEANING[kind]} | {', '.join(f'`{fact}`' for fact in facts[kind])} |\n"
        for kind in sorted(facts)
    ]
    return _BEGINNING + "".join(rows)


def recorded() -> dict[str, list[str]]:
    """Return the kinds of events that the source records, each with the names of its facts."""
    facts: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for source in sorted(Path(mlx_worker.__file__).parent.rglob("*.py")):
        text = source.read_text(encoding="utf-8")
        if "record" not in text:  # a search costs far less than to parse
            continue
        for call in _record_calls(ast.parse(text)):
            kind = call.args[0]
            assert isinstance(kind, ast.Constant), f"{source}: an event without a name"
            names = (keyword.arg for keyword in call.keywords if keyword.arg != "level")
            facts[str(kind.value)] |= dict.fromkeys(name for name in names if name)
    facts["reload"] |= dict.fromkeys(Reloaded.__struct_fields__)  # recorded as a whole
    return {kind: sorted(names) for kind, names in facts.items()}


def _record_calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Yield the calls of `events.record(…)` and `self._events.record(…)` ."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(
                    attr="record", value=ast.Attribute(attr=owner) | ast.Name(id=owner)
                ),
                args=[_, *_],
            ) if owner.removeprefix("_") == "events":
                yield node
