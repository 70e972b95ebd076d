"""The section `[[models]]`: one model, its limits, its prompts and its sampling defaults.

The table `[models.defaults]` below it has the values of fields that a request leaves out. [both]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlx_worker.config.sampler_types import (
    DefaultTokens,
    Penalty,
    ReasoningTokens,
    RepetitionPenalty,
    Seed,
    StopWord,
    Temperature,
    TopK,
    TopP,
    Unit,
)
from mlx_worker.config.schema.model_types import (
    DROPPED_LINES,
    ContextLength,
    EventEndpoint,
    HeadLine,
    LoopRepeats,
    ReasoningBudget,
    Speculation,
    SplitKind,
    SystemPrompt,
    ToolMode,
    Transport,
    WeightType,
)
from mlx_worker.config.schema.types import Interval, Name
from mlx_worker.config.sizes import Size


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Values of fields that a request leaves out; None is mlx_lm's own default."""

    temperature: Annotated[
        Temperature | None, Meta(description="Temperature of sampling; 0 is greedy.")
    ] = None
    top_p: Annotated[
        TopP | None,
        Meta(
            description="Sample from the most probable tokens that have this probability together;"
            " 0: from all."
        ),
    ] = None
    top_k: Annotated[
        TopK | None,
        Meta(description="Sample from this number of the most probable tokens; 0 or -1: from all."),
    ] = None
    min_p: Annotated[
        Unit | None,
        Meta(description="Sample from tokens with at least this share of the highest probability."),
    ] = None
    repetition_penalty: Annotated[
        RepetitionPenalty | None,
        Meta(description="Above 1, tokens that have occurred are less likely."),
    ] = None
    presence_penalty: Annotated[
        Penalty | None,
        Meta(description="Above 0, tokens that have occurred are less likely."),
    ] = None
    frequency_penalty: Annotated[
        Penalty | None,
        Meta(description="Above 0, a token is less likely with each time that it has occurred."),
    ] = None
    seed: Annotated[
        Seed | None,
        Meta(description="Seed of requests without one: equal requests get equal answers."),
    ] = None
    max_tokens: Annotated[
        DefaultTokens | None,
        Meta(
            description="Largest number of tokens of an answer; the context of the model may allow"
            " fewer."
        ),
    ] = None
    max_reasoning_tokens: Annotated[
        ReasoningTokens | None,
        Meta(
            description="Largest number of tokens of reasoning, after which the end of reasoning is"
            " forced. Zero ends reasoning at once; -1 is no limit."
        ),
    ] = None


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one model."""

    id: Annotated[Name, Meta(description="Name of the model in requests and in `/health`.")]
    path: Annotated[
        Name,
        Meta(description="Folder (relative to this file), or a name in the models folder."),
    ]
    aliases: Annotated[
        tuple[Name, ...], Meta(description="Other names of the model in requests.")
    ] = ()
    default: Annotated[
        bool,
        Meta(
            description="Serves requests for unknown model names; at most one model may be the"
            " default."
        ),
    ] = False
    preload: Annotated[
        bool,
        Meta(description="Start the model with the node; else its first request starts it."),
    ] = True
    pin: Annotated[
        bool,
        Meta(description="Never unload the model, neither when idle nor for another model."),
    ] = False
    idle_timeout: Annotated[
        Interval | None,
        Meta(
            description="Seconds without a request after which the model is unloaded. Without this"
            " key: never."
        ),
    ] = None
    request_timeout: Annotated[
        Interval | None,
        Meta(
            description="Seconds that a request may take, waiting included. Without this key: no"
            " limit."
        ),
    ] = None
    max_concurrency: Annotated[
        int, Meta(ge=1, le=1024, description="Decode slots: requests that run at once.")
    ] = 32
    max_queue: Annotated[
        int, Meta(ge=0, le=100_000, description="Requests that may wait for a decode slot.")
    ] = 64
    context_length: Annotated[
        ContextLength | None,
        Meta(
            description="Tokens of prompt and answer together. Without this key: the model's own"
            " context; where its files state none, memory is the only limit. A larger value than"
            " config.json's has no effect."
        ),
    ] = None
    cache_bytes: Annotated[
        Size,
        Meta(
            description="Memory for the KV of cached prompts and running requests together: bytes,"
            ' or as in "4GiB".'
        ),
    ] = Size(4 << 30)
    disk_cache: Annotated[
        bool,
        Meta(description="False: nothing of this model's KV is kept on disk (`[cache]`)."),
    ] = True
    kv_events: Annotated[
        EventEndpoint | None,
        Meta(
            description="Address at which the model's KV events are published as vLLM does (ZeroMQ"
            ' PUB), as in `"tcp://127.0.0.1:5557"`; needs the extra `router`. Events have the token'
            " ids of prompts and answers, and every program that reaches the address can read them."
            " Without this key nothing is published."
        ),
    ] = None
    kv_events_replay: Annotated[
        EventEndpoint | None,
        Meta(
            description="Address at which subscribers ask for events that they missed (ZeroMQ"
            ' ROUTER), as in `"tcp://127.0.0.1:5558"`.'
        ),
    ] = None
    kv_events_topic: Annotated[
        str,
        Meta(
            max_length=200,
            description="Topic of each message: some routers read names of node and model there.",
        ),
    ] = ""
    remember_turns: Annotated[
        bool,
        Meta(
            description="Earlier turns of the model are read as the tokens that were sampled, so"
            " that the next turn finds all of them in the prompt cache. False: a prompt depends on"
            " its request alone, and a seed makes the same answer whatever was said before."
        ),
    ] = True
    speculation: Annotated[
        Speculation,
        Meta(
            description='"auto": tokens that an answer is likely to repeat are drafted, and several'
            " of them checked in one forward pass. Measurements after the load say whether this is"
            ' faster, and moves no logit. No token changes. "on": also where such passes round'
            ' no further than batches do; then an answer may depend on timing. "off": never.'
        ),
    ] = "auto"
    draft: Annotated[
        Name | None,
        Meta(
            description="Folder (relative to this file), or a name in the models folder, of a"
            " smaller model with the same tokenizer. It drafts tokens where a lookup finds nothing;"
            " no token changes. Without this key all drafts are looked up. One model over several"
            " processes (`ranks`) has no draft model."
        ),
    ] = None
    prefill_pause: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="Seconds that the prefill of a new prompt may delay running streams"
            " between two of their tokens.",
        ),
    ] = 0.1
    defaults: Annotated[
        Defaults, Meta(description="Values of fields that a request leaves out; see below.")
    ] = Defaults()
    warm: Annotated[
        tuple[Path, ...],
        Meta(
            description="Files with system prompts, relative to this file, that are read into the"
            " prompt cache after every load."
        ),
    ] = ()
    chat_template: Annotated[
        Path | None,
        Meta(
            description="File of a Jinja template that replaces the folder's own. A reload of the"
            " configuration reads the file again, and restarts the model if it has changed."
        ),
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any],
        Meta(
            description="Arguments of the chat template, such as `enable_thinking = false`. An"
            " argument of the same name in a request takes precedence."
        ),
    ] = {}
    system_prompt: Annotated[
        SystemPrompt | None,
        Meta(description="System prompt of conversations that have no system message."),
    ] = None
    drop_system_lines: Annotated[
        tuple[HeadLine, ...],
        Meta(
            max_length=16,
            description="Lines that are dropped where a request's system prompt begins with them:"
            " a whole line, or the beginning of one with `*` behind it. They are for lines that a"
            " client changes with every request, which no cached prompt would fit. `[]` drops"
            " none.",
        ),
    ] = DROPPED_LINES
    stop: Annotated[
        tuple[StopWord, ...],
        Meta(max_length=16, description="Stop strings, in addition to those of a request."),
    ] = ()
    tools: Annotated[
        ToolMode,
        Meta(
            description="What a request with tools gets where the chat template of the model has"
            " no tool calls: `refuse` answers 400, `ignore` leaves the tools out and warns in the"
            " answer, `prompt` describes the tools in the system prompt and reads calls from the"
            " answer (docs/reference/dialects.md)."
        ),
    ] = "refuse"
    reasoning_budgets: Annotated[
        dict[str, ReasoningBudget],
        Meta(
            description="Tokens of reasoning by the effort that a request asks for, as in"
            " `{ low = 512, high = 8192 }`; -1 is no limit. A budget in the request takes"
            " precedence; an effort without a budget here has that of `defaults`."
        ),
    ] = {}
    loop_guard_repeats: Annotated[
        LoopRepeats | None,
        Meta(
            description="Repeats of one piece of an answer that end the answer, with"
            " `finish_reason` `length` and a warning. Without this key: no repetition does.",
        ),
    ] = None
    loop_guard_tokens: Annotated[
        int,
        Meta(ge=16, le=4096, description="Tokens that these repeats have together, at least."),
    ] = 256
    dtype: Annotated[
        WeightType,
        Meta(
            description="The floating-point type in which weights are held and computed with."
            " `auto`: as the files have them, but float32 on a CPU with a fast BLAS (`[cpu]`), if"
            " the weights then take at most half of the memory for models. Integers of quantized"
            " weights stay as they are; their scales and all other parts follow this key."
        ),
    ] = "auto"
    ranks: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Processes that compute the model together, each with its part of the"
            " weights and of the KV. For trying such a split on one host, where one process is"
            " faster.",
        ),
    ] = 1
    split: Annotated[
        SplitKind,
        Meta(
            description="What each of several processes has: `tensor` is some heads of every"
            " layer, `pipeline` is some of the layers."
        ),
    ] = "tensor"
    hosts: Annotated[
        tuple[Name, ...],
        Meta(
            max_length=64,
            description="Hosts that compute the model together, each with its part, as in"
            ' `["here", "studio2"]`. The first is the node\'s own machine, `here`; the others are'
            " sections `[[hosts]]`. Without this key: the node's own machine.",
        ),
    ] = ()
    transport: Annotated[
        Transport,
        Meta(
            description="How the hosts exchange what they compute: `ring` is TCP, `jaccl` is RDMA"
            " over Thunderbolt, which has not been tried."
        ),
    ] = "ring"
    env: Annotated[
        dict[str, str],
        Meta(
            description="Environment variables of this model's process; they take precedence over"
            " the node's own environment. Such a model starts in no spare process. Variables that"
            " the node sets for all its children (`TMPDIR`, `HF_HUB_OFFLINE`, …) cannot be set"
            " here."
        ),
    ] = {}

    @property
    def rank_count(self) -> int:
        """Return the number of processes that compute the model together."""
        return len(self.hosts) or self.ranks

    @property
    def keeps_kv_on_disk(self) -> bool:
        """True if the model's KV is kept on disk where `[cache]` keeps any."""
        return self.disk_cache and self.rank_count == 1
