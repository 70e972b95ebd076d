"""One generation as the engine takes it, in no dialect.

[both]
"""

from __future__ import annotations

from typing import Any, Literal

from mlx_worker.wire.base import WirePart


class Sampling(WirePart, frozen=True, array_like=True):
    """Say how the next token is chosen. Zero, one or -1 means "off", as in mlx_lm and vLLM.

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


class JsonSchemaConstraint(WirePart, frozen=True, array_like=True, tag="schema"):
    """Require content that is a JSON document and fits `schema`, itself JSON.

    Here and below, `field` is the request's field that asks for it; error messages name the field.
    """

    schema: str
    field: str


class RegexConstraint(WirePart, frozen=True, array_like=True, tag="regex"):
    """Require content that matches `pattern` as a whole, in the syntax of Rust's regex."""

    pattern: str
    field: str


class LarkConstraint(WirePart, frozen=True, array_like=True, tag="lark"):
    """Require content that the rule `start` of `grammar` makes, in llguidance's kind of Lark."""

    grammar: str
    field: str


class ToolCallConstraint(WirePart, frozen=True, array_like=True, tag="call"):
    """Require calls of tools of these `names`, with arguments that fit their schemas."""

    names: list[str]
    field: str


AnswerConstraint = JsonSchemaConstraint | RegexConstraint | LarkConstraint | ToolCallConstraint


Opening = Literal["turn", "continued", "none"]
"""How an answer begins: as a `turn` of the assistant; `continued` from the last message, which is
the assistant's; right behind the last message, with `none`."""


class EndConditions(WirePart, frozen=True, array_like=True):
    """Say which tokens end an answer, beside its token limit and its stop strings.

    `ignore_eos`: the model's own end tokens do not end the answer. The tokens in `stop_token_ids`
    do. Before the answer has `min_tokens` tokens, no end token is generated, and no stop string is
    looked for.
    """

    ignore_eos: bool = False
    min_tokens: int = 0
    stop_token_ids: list[int] = []


class PromptScoring(WirePart, frozen=True, array_like=True):
    """Ask for the log-probabilities of a prompt's own tokens, with this many alternatives each.

    `echoed`: in the lists of a completion that repeats its prompt. `listed`: as vLLM's
    `prompt_logprobs`. None: not in that form.
    """

    echoed: int | None = None
    listed: int | None = None

    @property
    def alternatives(self) -> int:
        """Return the larger number of alternatives of the two forms."""
        return max(self.echoed or 0, self.listed or 0)


class LoopRule(WirePart, frozen=True, array_like=True):
    """Say which repetition ends an answer.

    The last tokens of the answer, at least `tokens` of them, are at least `repeats` of one piece.
    """

    repeats: int
    tokens: int


class ChatRequest(WirePart, frozen=True, array_like=True):
    """Describe one generation. The context may leave less room than `max_tokens`.

    `max_tokens` None: all the room that the context leaves.

    `prompt`, text or token ids, is read without a template, in place of `messages`; the answer to a
    prompt is content only.

    `logprobs`: how many alternatives to report with each token; None: no probabilities at all.
    `tools` are offered through the model's template, as OpenAI's chat completions write them;
    `one_call` ends the answer after its first call. `constraint` limits the answer's form,
    `opening` says how the answer begins. After `thinking_budget` tokens of reasoning the end of
    reasoning is forced; None: there is no such limit. `loop_rule` None: no repetition ends the
    answer. `prediction` is a text that the answer may repeat; it changes no token.
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
    constraint: AnswerConstraint | None = None
    ends: EndConditions = EndConditions()
    prompt_scoring: PromptScoring | None = None
    opening: Opening = "turn"
    thinking_budget: int | None = None
    loop_rule: LoopRule | None = None
    prediction: str = ""
