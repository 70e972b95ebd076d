"""Everything that can be said on the pipe between the front and one child.

A closed set of tagged, frozen types that neither side owns. Two unions, one a direction; whatever
does not decode into its union is garbage, and a child that sends garbage is replaced. The law of
ids: for every `Generate`, `Warm`, `ClearCache`, `TrimCache`, `Tokenize` and `Detokenize` the child
answers exactly one of `Done`, `Warmed`, `Cleared`, `Tokenized`, `Detokenized` or `Failed`; if it
dies first, the front's link says so in its place.
[both]
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

PROTOCOL = 10
"""Raised whenever a message changes; a child of another version is refused at hello."""


class Message(msgspec.Struct, frozen=True, tag=True, tag_field="is"):
    """A base for the tag; never sent itself."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A base for what travels inside messages, many times a second: no field names."""


# --- what a generation is -----------------------------------------------------------------


class Sampling(Part, frozen=True, array_like=True):
    """How the next token is chosen. Zero, one or -1 means 'off', as in mlx_lm and vLLM.

    `seed` fixes every draw: position i of a request uses a key made of (seed, i) alone.
    """

    seed: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}


class JsonSchema(Part, frozen=True, array_like=True, tag="schema"):
    """The content is a JSON document that fits `schema`, itself JSON.

    Here and below, `field` is where the request says so, for errors to name.
    """

    schema: str
    field: str


class Regex(Part, frozen=True, array_like=True, tag="regex"):
    """The content matches `pattern` as a whole, in the syntax of Rust's regex."""

    pattern: str
    field: str


class Lark(Part, frozen=True, array_like=True, tag="lark"):
    """The content is what the rule `start` of `grammar` makes, in llguidance's kind of Lark."""

    grammar: str
    field: str


class Call(Part, frozen=True, array_like=True, tag="call"):
    """The answer is calls of tools of these `names`, with arguments that fit their schemas."""

    names: list[str]
    field: str


Constraint = JsonSchema | Regex | Lark | Call


Opening = Literal["turn", "continued", "none"]
"""How an answer begins: as a `turn` of the assistant's; `continued` from the last message, which is
the assistant's; right behind the last message, with `none`."""


class Ends(Part, frozen=True, array_like=True):
    """Which tokens end an answer, beside its limit and its stop strings.

    `ignore_eos`: the model's own ends do not. The tokens in `stop_token_ids` do. Before the answer
    has `min_tokens` tokens, none of these is said, and no stop string is looked for.
    """

    ignore_eos: bool = False
    min_tokens: int = 0
    stop_token_ids: list[int] = []


class PromptScoring(Part, frozen=True, array_like=True):
    """How the log-probabilities of a prompt's own tokens are told: with how many alternatives each.

    `echoed`: in the lists of a completion that repeats its prompt. `listed`: as vLLM's
    `prompt_logprobs`. None: not in that form.
    """

    echoed: int | None = None
    listed: int | None = None

    @property
    def alternatives(self) -> int:
        """The most alternatives that either form tells."""
        return max(self.echoed or 0, self.listed or 0)


class ChatRequest(Part, frozen=True, array_like=True):
    """One generation, in no dialect. The context may leave less room than `max_tokens`.

    `max_tokens` None: all the room that the context leaves.

    `prompt`, text or token ids, is read as it stands, without a template, in place of `messages`;
    what is answered to it is content only.

    `logprobs`: how many alternatives to report with each token; None: no probabilities at all.
    `tools` are offered through the model's template, as OpenAI's chat completions write them;
    `one_call` ends the answer after its first call. `constraint` is what the answer has to be,
    `opening` how it begins.
    """

    messages: list[dict[str, Any]]
    sampling: Sampling
    max_tokens: int | None = None
    stop: list[str] = []
    template_kwargs: dict[str, Any] = {}
    logprobs: int | None = None
    tools: list[dict[str, Any]] = []
    one_call: bool = False
    prompt: str | list[int] | None = None
    constraint: Constraint | None = None
    ends: Ends = Ends()
    prompt_scoring: PromptScoring | None = None
    opening: Opening = "turn"


# --- front → child ------------------------------------------------------------------------


class Load(Message, frozen=True):
    """Load this model. `context_length` (tokens) None: the model's own.

    `cache_bytes` bounds the KV of cached prompts and running rows together: cached ones give way.
    `kv_bytes` bounds that of running rows: more of them wait. `prefill_pause` bounds the seconds
    that reading a prompt holds running streams up between two of their tokens. `chat_template`
    replaces the folder's own; `tools` says what becomes of tools where it has no tool calls.
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


class Generate(Message, frozen=True):
    """Start a generation under this id, or go on with one.

    `replay` are the token ids that its client already has: they are read, not said again, and the
    next token is the one that would have followed. `session` is the client's own name for the
    conversation, `request_id` its name in the log; "" where there is none. `room` is what a process
    before this one said in `Started`; None: no process has started the generation.
    """

    id: int
    request: ChatRequest
    replay: list[int] = []
    session: str = ""
    request_id: str = ""
    room: int | None = None


class Cancel(Message, frozen=True):
    """Nobody waits for this id any more. Answered by its `Done(finish="cancelled")`."""

    id: int


class Warm(Message, frozen=True):
    """Prefill this system prompt into the KV cache and keep it there.

    `template_kwargs` are those of the chats that it is for.
    """

    id: int
    system_prompt: str
    template_kwargs: dict[str, Any] = {}


class ClearCache(Message, frozen=True):
    """Forget every cached prompt."""

    id: int


class TrimCache(Message, frozen=True):
    """Forget cached prompts of at least so many bytes, the least worth keeping first."""

    id: int
    nbytes: int


class Tokenize(Message, frozen=True):
    """Which tokens would a `Generate` of this request read? Nothing is generated."""

    id: int
    request: ChatRequest


class Detokenize(Message, frozen=True):
    """Which text do these tokens make?"""

    id: int
    tokens: list[int]


class Ping(Message, frozen=True):
    """Are you there, and what have you done? Answered by the reader thread at once."""

    seq: int


ToChild = Load | Generate | Cancel | Warm | ClearCache | TrimCache | Tokenize | Detokenize | Ping


# --- child → front ------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """Everything is imported; a model may come.

    `working_set`: bytes that the device recommends to hold at most; None where it names none.
    """

    protocol: int
    pid: int
    versions: dict[str, str]
    working_set: int | None = None


class LoadProgress(Message, frozen=True):
    """Bytes of weights in memory, of how many."""

    done: int
    total: int


class Growth(Part, frozen=True, array_like=True):
    """KV that grows by so many bytes with each token, `until` so many tokens; None: for ever."""

    per_token: int
    until: int | None = None


class KvCost(Part, frozen=True, array_like=True):
    """What the KV of one row costs: `fixed` bytes, and what grows."""

    fixed: int = 0
    growing: list[Growth] = []

    def nbytes(self, tokens: int) -> int:
        """Of a row of so many tokens."""
        return self.fixed + sum(
            it.per_token * (tokens if it.until is None else min(tokens, it.until))
            for it in self.growing
        )


class Loaded(Message, frozen=True):
    """The model is ready. `context_length` in tokens, `weight_bytes` in memory, `kv` as measured.

    `context_length` None: the model's files state none, and no configuration does.

    `unbatched` says why it is served one row at a time; "" where it is batched. `weights` names
    what was loaded: the same name, the same weights.
    """

    context_length: int | None
    weight_bytes: int
    unbatched: str = ""
    kv: KvCost = KvCost()
    weights: str = ""


class LoadFailed(Message, frozen=True):
    """The model cannot be loaded; `permanent` when another try would fail the same way."""

    reason: str
    permanent: bool


class Started(Message, frozen=True):
    """Tokenized, looked up and admitted: from here on the answer is on its way.

    `cache_hit`: the KV of the prompt's shared head (system prompt) was resident; `miss` says why
    it was not ("new", "evicted", "cleared"; "" also where there is no head). `room` is how many
    tokens the answer may have; None: the process does not tell.
    """

    id: int
    prompt_tokens: int
    cached_tokens: int
    cache_hit: bool
    miss: str = ""
    room: int | None = None


class Prefill(Message, frozen=True):
    """Prompt tokens of this id in the KV cache, of how many."""

    id: int
    done: int
    total: int


class PromptScores(Message, frozen=True):
    """Log-probabilities of the next tokens of a prompt, as JSON that the front passes on unread.

    `echoed` are the lists of a completion's logprobs, in the order of `LOGPROB_LISTS`; `listed` is
    vLLM's list. Each is a stretch of a list, without brackets; with `is_last` the lists are whole.
    """

    id: int
    echoed: list[bytes]
    listed: bytes
    is_last: bool


class Choice(Part, frozen=True, array_like=True):
    """A token that could be chosen: its text by itself, and its log-probability.

    `data` are the bytes that the token adds to an answer, where those are not its text's own: of a
    part of a character, or none of a special token that is not shown.
    """

    text: str
    logprob: float
    data: bytes | None = None

    @property
    def added(self) -> bytes:
        """The bytes that the token adds to an answer."""
        return self.text.encode() if self.data is None else self.data


class TokenLogprobs(Part, frozen=True, array_like=True):
    """The token that was chosen, and the likeliest ones, likeliest first.

    `is_content`: it was said as content, not in reasoning or a call.
    """

    chosen: Choice
    likeliest: list[Choice]
    is_content: bool = True


class Reasoning(Part, frozen=True, array_like=True, tag="reasoning"):
    """What the model says to itself."""

    text: str


class ToolCall(Part, frozen=True, array_like=True, tag="call"):
    """A call that is complete; `arguments` is JSON."""

    id: str
    name: str
    arguments: str


class BrokenCall(Part, frozen=True, array_like=True, tag="broken"):
    """A call that nobody can carry out: the text between its markers, and what is wrong with it."""

    text: str
    problem: str


class Notice(Part, frozen=True, array_like=True, tag="notice"):
    """A warning about how the answer was made; nothing of the answer itself."""

    problem: str


Span = str | Reasoning | ToolCall | BrokenCall | Notice
"""A stretch of an answer; content is a bare string."""


def shown(span: Span) -> str:
    """What of a span is there to be read as content: a broken call too, for want of better."""
    match span:
        case str():
            return span
        case BrokenCall():
            return span.text
        case _:
            return ""


class Row(Part, frozen=True, array_like=True):
    """One sequence's share of a decode step: its new tokens and what they released.

    `text` is the content that comes last, most often all there is; `spans` is what comes before
    it, in order. `logprobs`, where they were asked for, has one entry a token.
    """

    id: int
    tokens: list[int]
    text: str
    logprobs: list[TokenLogprobs] = []
    spans: list[Span] = []


class Step(Message, frozen=True):
    """A decode step, or several short ones: the new tokens of all sequences, in one frame."""

    rows: list[Row]


FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


class Done(Message, frozen=True):
    """The last word on a `Generate`; `spans`, then `text`, are what was still held back.

    `stop_string` is the one that ended it, "" where none did; `reasoning_tokens` are those of
    `completion_tokens` that were said while it reasoned. `context_full`: `length` is the context's,
    not that of `max_tokens`.
    """

    id: int
    finish: FinishReason
    completion_tokens: int
    text: str
    spans: list[Span] = []
    stop_string: str = ""
    reasoning_tokens: int = 0
    context_full: bool = False


class Warmed(Message, frozen=True):
    """The last word on a `Warm`: this many tokens of it are resident."""

    id: int
    tokens: int


class Cleared(Message, frozen=True):
    """The last word on a `ClearCache` or a `TrimCache`."""

    id: int


class Tokenized(Message, frozen=True):
    """The last word on a `Tokenize`: how many tokens, and their ids as a list in JSON.

    The front's event loop passes a million ids on as bytes; to make numbers of them takes 50 ms.
    """

    id: int
    count: int
    tokens: bytes


class Detokenized(Message, frozen=True):
    """The last word on a `Detokenize`: the text as a string in JSON, passed on as it is."""

    id: int
    text: bytes


class Failed(Message, frozen=True):
    """The last word on any id that went wrong; `code` is one of the error family's.

    `param` names the request's field where one is to blame. `prompt_tokens` and `context` are those
    of a prompt that does not fit.
    """

    id: int
    code: str
    message: str
    param: str | None = None
    prompt_tokens: int = 0
    context: int = 0


class CacheState(Message, frozen=True):
    """The prompt cache after it changed. `last_updated` in ms since the epoch.

    `tokens` and `system_prompt_hash` speak of the prompt last warmed or used; `entries`, `warmed`
    (prompts) and `bytes` of everything resident; `capacity` is the limit on `bytes`.
    """

    tokens: int
    system_prompt_hash: str
    last_updated: float
    entries: int
    warmed: int
    bytes: int
    capacity: int


class Pong(Message, frozen=True):
    """Counters since the start, and memory in bytes: progress, not a mere sign of life.

    `prepared` rises with each request's preparation, and while one is under way; `held` are the
    pieces of work that held a thread for longer than they may, by kind.
    """

    seq: int
    prefilled_tokens: int
    decode_steps: int
    active: int
    resident_bytes: int
    device_bytes: int
    prepared: int = 0
    held: dict[str, int] = {}


FromChild = (
    Hello
    | LoadProgress
    | Loaded
    | LoadFailed
    | Started
    | Prefill
    | PromptScores
    | Step
    | Done
    | Warmed
    | Cleared
    | Tokenized
    | Detokenized
    | Failed
    | CacheState
    | Pong
)
