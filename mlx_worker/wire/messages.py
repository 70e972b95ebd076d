"""The messages on the pipe between the front and one child.

A closed set of tagged, frozen types that neither side owns. There is one union for each
direction; messages of the prompt cache, of tokens and of output have modules of their own. A frame
that does not decode into its union is garbage, and a child that sends garbage is replaced. The rule
of ids: for every `Generate`, `Warm`, `ClearCache`, `TrimCache`, `Tokenize` and `Detokenize` the
child answers exactly one of `Done`, `PromptWarmed`, `CacheCleared`, `TokenizeResult`,
`DetokenizeResult` or `RequestFailed`. If the child dies first, the front's connection ends the
request in its place. [both]
"""

from __future__ import annotations

from typing import Literal

from mlx_worker.wire.base import WireMessage, WirePart
from mlx_worker.wire.kv_blocks import KvBlocks
from mlx_worker.wire.kv_cost import KvCost
from mlx_worker.wire.output import Done, PromptScores, StepOutput
from mlx_worker.wire.parting import Parting
from mlx_worker.wire.prompt_cache import (
    CacheCleared,
    CacheState,
    ClearCache,
    DiskState,
    PromptWarmed,
    TrimCache,
    Warm,
)
from mlx_worker.wire.rank_place import RankPlace
from mlx_worker.wire.request import ChatRequest
from mlx_worker.wire.splice import Splice
from mlx_worker.wire.tokenizing import Detokenize, DetokenizeResult, Tokenize, TokenizeResult

PROTOCOL = 15
"""Raised whenever a message changes; the front refuses a child of another version at `Hello`."""


# --- front → child ------------------------------------------------------------------------


class DiskCache(WireMessage, frozen=True):
    """Name the folder of the KV on disk and its bounds in bytes.

    `suspects` are the records that a process read shortly before its death.
    """

    path: str
    capacity: int
    writes_per_day: int
    free_min: int
    suspects: list[bytes] = []


class Load(WireMessage, frozen=True):
    """Load a model. `context_length` (tokens) None: the model's own.

    `cache_bytes` bounds the KV of cached prompts and running rows together: cached ones give way.
    `kv_bytes` bounds the KV of running rows: further requests wait. `prefill_pause` bounds the
    seconds for which prefill delays running streams between two of their tokens. `chat_template`
    replaces the folder's own; `tools` says what becomes of tools if the template has no tool calls.
    `remember_turns`: earlier turns of the model are read as the tokens that were sampled. `disk`
    None: no KV is kept on disk. `dtype` is the floating-point type of the weights in memory; "" for
    the types in the files. `speculation` "off": every token has a forward pass of its own. `draft`
    is the path of a model that drafts, "" for none.
    `report_blocks`: the process sends `KvBlocks`. `place` is that of this process among several
    that compute the model together; None: it computes the whole model.
    """

    model: str
    path: str
    max_concurrency: int
    context_length: int | None
    cache_bytes: int
    kv_bytes: int
    prefill_pause: float
    chat_template: str | None = None
    tools: Literal["refuse", "ignore", "prompt"] = "refuse"
    remember_turns: bool = True
    disk: DiskCache | None = None
    dtype: str = ""
    speculation: Literal["auto", "on", "off"] = "auto"
    draft: str = ""
    report_blocks: bool = False
    place: RankPlace | None = None


class Generate(WireMessage, frozen=True):
    """Start a generation under this id, or continue one.

    `replay` are the token ids that the client already has: they are read, not sent again, and the
    next token is the token that would have followed. `session` names the conversation among those
    of all API keys, `request_id` is the request's name in the log; "" where there is none. `room`
    and `splices` are what an earlier process named in `Started`; None: no process has started the
    generation.
    """

    id: int
    request: ChatRequest
    replay: list[int] = []
    session: str = ""
    request_id: str = ""
    room: int | None = None
    splices: list[Splice] | None = None

    @property
    def body(self) -> str:
        """The name of the body that the message is about: all choices of one body have it."""
        return self.request_id or f"#{self.id}"


class CancelGeneration(WireMessage, frozen=True):
    """End the generation of this id. The answer is its `Done(finish="cancelled")`."""

    id: int


class Ping(WireMessage, frozen=True):
    """Ask for a `Pong`, which the child's reader thread sends at once."""

    seq: int


class Leave(WireMessage, frozen=True):
    """Write to disk what is worth keeping, and end the process, within `seconds`.

    The process has no open requests. Without KV on disk the front closes the pipe instead.
    """

    seconds: float


ToChild = (
    Load
    | Generate
    | CancelGeneration
    | Warm
    | ClearCache
    | TrimCache
    | Tokenize
    | Detokenize
    | Ping
    | Leave
)


# --- child → front ------------------------------------------------------------------------


class Hello(WireMessage, frozen=True):
    """Tell that all modules are imported and the child is ready to load a model.

    `working_set`: bytes that the device recommends to hold at most; None where it names none.
    """

    protocol: int
    pid: int
    versions: dict[str, str]
    working_set: int | None = None


class Gathering(WireMessage, frozen=True):
    """Tell the port at which rank 0 waits for the other ranks of its model."""

    port: int


class LoadProgress(WireMessage, frozen=True):
    """Tell how many bytes of the weights are in memory, of how many."""

    done: int
    total: int


class PassCost(WirePart, frozen=True):
    """Tell how long a forward pass takes that reads `width` tokens of each of `rows` rows."""

    rows: int
    width: int
    seconds: float


class Loaded(WireMessage, frozen=True):
    """Tell that the model is ready. `weight_bytes` are in memory, `kv` is measured.

    `context_length` (tokens) None: neither the model's files nor the configuration states one.

    `unbatched` says why the model is served one row at a time; "" where rows are batched.
    `weights` names what was loaded: the same name means the same weights. `dtype` is the
    floating-point type of most weights in memory, or of their scales. `pass_costs` were measured;
    `no_speculation` is why no tokens are drafted, "" where they may be. `draft_costs` and
    `no_draft_model` tell the same of the draft model.
    """

    context_length: int | None
    weight_bytes: int
    unbatched: str = ""
    kv: KvCost = KvCost()
    weights: str = ""
    dtype: str = ""
    no_speculation: str = ""
    pass_costs: list[PassCost] = []
    no_draft_model: str = ""
    draft_costs: list[PassCost] = []


class LoadFailed(WireMessage, frozen=True):
    """Tell that the model cannot be loaded; `permanent`: another try would fail the same way."""

    reason: str
    permanent: bool


class Started(WireMessage, frozen=True):
    """Tell that a request is tokenized, looked up in the prompt cache and admitted.

    `cache_hit`: the KV of the prompt's system prefix was resident; `miss` says why it was not
    ("new", "evicted", "cleared"; "" also where the prompt has no system prefix). `room` is how many
    tokens the answer may have; None: the process does not tell. `parting` says where the prompt
    parts from the last one of its session; None: the process knows no such prompt. `splices` are
    the stretches of the prompt that are read as the tokens of earlier answers. `disk_tokens` of
    the cached ones were read from disk, out of the records `disk_records`: the first byte of each
    is the kind, the others are the key.
    """

    id: int
    prompt_tokens: int
    cached_tokens: int
    cache_hit: bool
    miss: str = ""
    room: int | None = None
    parting: Parting | None = None
    splices: list[Splice] = []
    disk_tokens: int = 0
    disk_records: list[bytes] = []


class PrefillProgress(WireMessage, frozen=True):
    """Tell how many prompt tokens of this id are in the KV cache, of how many.

    `disk_records` are about to be used for this id: a process that dies before its `Started` has
    told what the process had read. They are named as in `Started`, and once.
    """

    id: int
    done: int
    total: int
    disk_records: list[bytes] = []


class RequestFailed(WireMessage, frozen=True):
    """End the request of an id with an error; `code` is the code of an error class.

    `param` names the field of the request that caused the error, if one did. `prompt_tokens` and
    `context` are those of a prompt that does not fit.
    """

    id: int
    code: str
    message: str
    param: str | None = None
    prompt_tokens: int = 0
    context: int = 0


class Pong(WireMessage, frozen=True):
    """Answer a `Ping` with counters since the start, and memory in bytes.

    `prepared` rises with each request's preparation, while one is under way, and while a request
    waits for the disk. `slow_work` counts the pieces of work that occupied a thread for longer than
    allowed, by kind. `accepted_tokens` of the `drafted_tokens` were right; those of the draft model
    among them are `model_drafted_tokens` and `model_accepted_tokens`.
    """

    seq: int
    prefilled_tokens: int
    decode_steps: int
    active: int
    resident_bytes: int
    device_bytes: int
    prepared: int = 0
    slow_work: dict[str, int] = {}
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    model_drafted_tokens: int = 0
    model_accepted_tokens: int = 0


FromChild = (
    Hello
    | Gathering
    | LoadProgress
    | Loaded
    | LoadFailed
    | Started
    | PrefillProgress
    | PromptScores
    | StepOutput
    | Done
    | PromptWarmed
    | CacheCleared
    | TokenizeResult
    | DetokenizeResult
    | RequestFailed
    | CacheState
    | DiskState
    | KvBlocks
    | Pong
)
