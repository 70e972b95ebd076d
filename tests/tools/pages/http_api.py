"""Write docs/reference/http-api.md: every endpoint, and every error, of the table of routes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mlx_worker.api.route import ANY_BODY, ANY_REQUEST, Text
from mlx_worker.api.routes import ROUTES
from mlx_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.api.route import Route

_BEGINNING: Final = """\
# HTTP API

Written by `python -m tests.tools.generated` from the table of routes. `GET /openapi.json` of a
running node has the same as OpenAPI 3.1, with the types and the meaning of bodies and answers.
Words such as front, prefill or drain are in [the glossary](glossary.md).

Any run of `/v1` in front of a path is ignored: `/chat/completions`, `/v1/chat/completions` and
`/v1/v1/chat/completions` are the same. Doubled slashes and slashes at the end of a path are ignored
too. HEAD is answered wherever GET is. The fields of a generation request are in
[Dialects](dialects.md), those of `/health` in [The health report](health.md).

## Endpoints

"Key" says which requests need an API key where the node has keys: **always**; **not if trusted**,
which is not from an address in `server.trusted`; or **never**.

"""

_ACCESS: Final = {"key": "always", "trusted": "not if trusted", "public": "never"}

_PAGE: Final = """\
The dashboard is `GET /` and the files under `/page/`. They need no key and are not in
`/openapi.json`.

Query parameters:

- `model` of caches and logs: the id or an alias of one model. Without it the answer is about all
  models, or has the node's own log.
- `after` of events, logs, history and `/admin/watch`: only entries with a larger `id`. A stream
  takes the header `Last-Event-ID` instead, if there is one.
- `brief` of health: fewer keys of each model ([Brief reports](health.md#brief-reports)).
- `limit`, `after_id`, `before_id` and `lifecycle[]` of `/models`: Anthropic's pages
  ([The list of models](dialects.md#the-list-of-models)).
- `logs` of `/admin/watch`: `*` for the node's log lines, or a model's id for the lines of its
  processes; with `logs_after` only lines with a larger `id`.
- `requests` of `/admin/watch`: `1` for the table of requests, as in `/admin/requests`.

Bodies that are not in [Dialects](dialects.md):

- `/cache/warm` and `/cluster/cache/warm` take `system_prompt` (or `systemPrompt`), the text that is
  computed and kept, and `model`, as in a generation request. `tools` are refused.
- `/admin/logs/level` takes `level`: `debug`, `info`, `warning` or `error`.

An answer about a prompt cache has `systemPromptHash` (SHA-256 of the system prompt that was used or
warmed last), its `tokens`, and `lastUpdated` in ms since the epoch. `GET /cache` also has of each
model:

- `hitRate`, the share of requests whose system prompt was in the cache, and `misses`, the others by
  [reason](metrics.md#labels);
- the number of `entries` and of `warmed` prompts, and the `bytes` of all entries, at most
  `capacity`;
- `hitsBySource`, the requests with cached prompt tokens from `memory` and from `disk`, and
  `cachedTokensBySource`, those tokens;
- `disk`, its [KV on disk](../how-to/kv-on-disk.md). `enabled` and `off` say whether the disk is
  used and why it is not. The model has `records` of `bytes`, of which `quarantined` are set aside
  after a crash. The whole folder has `totalBytes` of `capacity`, and `writtenToday`. Counts of all
  its processes are `hits` and `misses` (records), `hitTokens`, `secondsSaved` of prefill,
  `corrupt`, `evicted` (files of records) and `dropped` (records that were not written);
- `kvEvents`, what its [KV events](../how-to/kv-events.md) come to: the `sequence` of the last
  batch, `blocks` and their `digest`, and `off`, why nothing is published; null if the model
  publishes none.

`disk` of the node has the figures of the folder, with its `path` and `writesPerDay`.
`GET /cache/disk` reads the folder itself, so its answer also has models that are not loaded: under
`stored`, for each `identity` (weights, versions, settings), the ids of its `models`, its `records`,
`tokens` and `bytes`, and `lastUsed` in ms since the epoch.

`DELETE /cache` clears memory and disk. Without `model` it clears the whole folder. A model that is
not loaded is cleared on disk too; while its process starts or ends the answer is 503
`model_loading`.

A sample of `/admin/history` has `at` (ms since the epoch) and, of each model, `tokensPerSecond` and
`residentBytes`; `firstTokenP50` and `firstTokenP95`, percentiles of the seconds to the first token;
`running` and `queued` generations; and `runningPeak`, the most that ran since the sample before.

`/admin/watch` sends the node's events and four others: `reader` (the name of the reader's API key),
`log`, `requests` and `report`. A report has the health report as `health`, and under `models` what
the dashboard shows of each model beside that:

- `deaths`, the ends of its processes that count against it, and `deathsAllowed`, after which it is
  given up; `givenUp`, `nextTryAt`, and `restartsBy`, the restarts by
  [cause](metrics.md#labels);
- `latency`, percentiles of the last ten minutes in seconds: to the first token, between tokens, and
  of whole answers; `prefillTokensPerSecond` of the same time;
- `firstToken`, the number of first tokens and the sum of the times to them; `runningPeak`, as in
  the history;
- `aliases`, `isDefault`, `maxConcurrency` and `maxQueue` of the configuration, and the bytes and
  entries of its caches.

"""

_HEADERS: Final = """\
## Headers

| header | in | |
|---|---|---|
| `Authorization: Bearer KEY`, `x-api-key: KEY` | request | The API key. |
| `X-Request-Id` | both | Name of the request in log, events and traces; made if it is absent. |
| `X-Session-Id` | both | Name of the [session](dialects.md#sessions), which has other names too. |
| `X-Model` | answer | The id of the model that answers, percent-encoded where it is not ASCII. |
| `X-Cache-Hit` | answer | `true` if the system prompt was in the prompt cache. |
| `X-Warnings` | answer | What of the request was left out; absent if nothing was. |
| `X-Prompt-Parted` | answer | [Where the prompt parted](dialects.md#where-a-prompt-parted). |
| `X-System-Lines-Dropped` | answer | Lines of the system prompt that `drop_system_lines` dropped. |
| `Retry-After` | answer | With 429 and 503: seconds until another try may succeed. |
| `X-Should-Retry: false` | answer | The same request should not be sent again: see below. |
| `anthropic-version` | request | Chooses Anthropic's shape of the list of models and of errors. |

`X-Should-Retry: false` comes with the codes {NO_RETRY}.
The 503 `model_too_large` has no `Retry-After`.

A stream that [began before its model](dialects.md#while-a-stream-waits) has no `X-Cache-Hit`: a
comment in the stream says the same. Its refusals are error events, with the status 200.

"""

_ERRORS: Final = """\
## Errors

An error body is `{"error": {"message", "type", "code", "param"}}`. In the Messages dialect it is
`{"type": "error", "error": {"type", "message"}}` ([statuses there](dialects.md#post-v1messages)).
Every endpoint may answer with the errors of any request; every endpoint with a body also with those
of any body. "Generation" is the four endpoints that generate; "tokens" is `/messages/count_tokens`,
`/tokenize` and `/detokenize`; "warming" is `/cache/warm` and `/cluster/cache/warm`; "the commands
to a model" are `load`, `restart` and `unload` under `/admin/models/`.

These errors come before an endpoint is found: 404 `no_such_path`, which names the path that does
the same here where another server has it; 405 `wrong_method`, with `Allow`; 400 `not_http`; 503
`too_many_connections`, with `Retry-After`, which health never gets. Of any body, 503 `unavailable`
with `Retry-After` is that of a large one whose parser ended. A generation gets it too if no helper
process can be started for its grammar, and `/models` if every model was given up.

"""


def page() -> str:
    """Return the page."""
    headers = _HEADERS.replace("{NO_RETRY}", _not_resent())
    return f"{_BEGINNING}{_endpoints()}{_PAGE}{headers}{_ERRORS}{_errors()}\n"


def _endpoints() -> str:
    lines = ["| endpoint | what it does | key | success |", "|---|---|---|---|"]
    lines += [
        f"| `{route.method} {_path(route)}` | {_what(route)} | {_ACCESS[route.access]} |"
        f" {_success(route)} |"
        for route in ROUTES
    ]
    return "\n".join(lines) + "\n\n"


def _path(route: Route) -> str:
    query = "&".join(route.query)
    return f"/{_plain(route.path)}?{query}" if query else f"/{_plain(route.path)}"


def _plain(path: str) -> str:
    """Return a path without the expressions of its parameters."""
    return re.sub(r"{(\w+):[^}]*}", r"{\1}", path)


def _what(route: Route) -> str:
    streamed = "; with `stream: true` as events" if route.streams else ""
    anthropic = "; Anthropic's shape if `anthropic-version` is sent" if route.anthropic else ""
    return f"{route.summary}{streamed}{anthropic}."


def _success(route: Route) -> str:
    statuses = ", ".join(map(str, route.statuses))
    if isinstance(route.answer, Text):
        return f"{statuses}: {', '.join(f'`{media_type}`' for media_type in route.answer.media)}"
    return f"{statuses}: JSON"


def _errors() -> str:
    lines = ["| status | code | type | when | where |", "|---|---|---|---|---|"]
    lines += [
        f"| {kind.status} | `{kind.code}` | `{kind.kind}` | {_first_line(kind)} | {_where(kind)} |"
        for kind in sorted(_all_errors(), key=lambda kind: (kind.status, kind.code))
    ]
    return "\n".join(lines)


def _not_resent() -> str:
    return ", ".join(sorted(f"`{kind.code}`" for kind in _all_errors() if not kind.resend))


def _all_errors() -> Iterable[type[WorkerError]]:
    return dict.fromkeys(error for route in ROUTES for error in route.all_errors)


_GROUPS: Final = {
    "generation": ("chat/completions", "completions", "responses", "messages"),
    "tokens": ("messages/count_tokens", "tokenize", "detokenize"),
    "warming": ("cache/warm", "cluster/cache/warm"),
    "the commands to a model": ("admin/models",),
}
"""Names of endpoints that are told together, with their paths."""


def _where(kind: type[WorkerError]) -> str:
    if kind in ANY_REQUEST:
        return "any request"
    if kind in ANY_BODY:
        return "any body"
    routes = [route for route in ROUTES if kind in route.errors]
    names: list[str] = []
    for name, members in _GROUPS.items():
        paths = {_group_path(route) for route in routes}
        if all(path in paths for path in members):
            names.append(name)
            routes = [route for route in routes if _group_path(route) not in members]
    return ", ".join((*names, *(f"`{route.method} /{_plain(route.path)}`" for route in routes)))


def _group_path(route: Route) -> str:
    return route.path.split("/{id")[0]


def _first_line(kind: type[WorkerError]) -> str:
    return "An internal error." if kind is WorkerError else (kind.__doc__ or "").partition("\n")[0]
