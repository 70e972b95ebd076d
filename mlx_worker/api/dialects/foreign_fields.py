"""Fields of other servers and of other dialects, which this node does not honour.

A closed table: each name, the values that ask for nothing, and what to use instead. Any other value
is refused by name, for the answer would not be what was asked for. Fields that change no answer are
named too, and ignored; fields in no table are ignored. A name that a dialect's own body has is that
dialect's. `docs/dialects.md` has the same table. [front]
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, Literal, NamedTuple

import msgspec

from mlx_worker.errors import UnsupportedField

Dialect = Literal["chat", "completions", "responses", "messages"]

ALL: Final[tuple[Dialect, ...]] = ("chat", "completions", "responses", "messages")
CHATS: Final[tuple[Dialect, ...]] = ("chat", "responses", "messages")


class Foreign(NamedTuple):
    """A field that this node does not honour in these dialects.

    `neutral` are the values that ask for nothing; null always is one. `instead` names what to use.
    """

    name: str
    neutral: tuple[Any, ...] = ()
    instead: str = ""
    dialects: tuple[Dialect, ...] = ALL


_TEXT: Final[tuple[Any, ...]] = ({"type": "text"},)
_TEXT_FORMAT: Final[tuple[Any, ...]] = ({}, {"format": {"type": "text"}})

REFUSED: Final[tuple[Foreign, ...]] = (
    # Samplers that mlx_lm has not, or that would need state of their own.
    Foreign("use_beam_search", (False,)),
    Foreign("num_beams", (1,)),
    Foreign("best_of", (1,), dialects=CHATS),
    Foreign("length_penalty", (1,)),
    Foreign("early_stopping", (False,)),
    Foreign("bad_words", ([],), "logit_bias"),
    Foreign("allowed_token_ids", ([],), "structured_outputs"),
    Foreign("custom_token_bans", ("",), "logit_bias"),
    Foreign("ban_eos_token", (False,), "min_tokens or ignore_eos"),
    Foreign("logits_processors", ([],)),
    Foreign("custom_logit_processor", ("",)),
    Foreign("custom_params", ({},)),
    Foreign("vllm_xargs", ({},)),
    Foreign("mirostat", (0,)),
    Foreign("mirostat_mode", (0,)),
    Foreign("tfs_z", (1,)),
    Foreign("tfs", (1,)),
    Foreign("typ_p", (1,)),
    Foreign("typical_p", (1,)),
    Foreign("typical", (1,)),
    Foreign("top_a", (0,)),
    Foreign("top_n_sigma", (0, -1)),
    Foreign("epsilon_cutoff", (0,)),
    Foreign("eta_cutoff", (0,)),
    Foreign("smoothing_factor", (0,)),
    Foreign("dynamic_temperature", (False,)),
    Foreign("dynatemp_range", (0,)),
    Foreign("dry_multiplier", (0,)),
    Foreign("xtc_probability", (0,)),
    Foreign("penalty_alpha", (0,)),
    Foreign("guidance_scale", (1,)),
    Foreign("negative_prompt", ("",)),
    Foreign("no_repeat_ngram_size", (0,)),
    Foreign("encoder_repetition_penalty", (1,)),
    Foreign("repeat_penalty", (0, 1), "repetition_penalty"),
    Foreign("repeat_last_n", (20, 64)),
    Foreign("repetition_context_size", (20,)),
    Foreign("presence_context_size", (20,)),
    Foreign("frequency_context_size", (20,)),
    Foreign("repetition_detection", ({},)),
    Foreign("samplers"),
    Foreign("sampler_order"),
    Foreign("sampler_priority"),
    Foreign("temperature_last", (False,)),
    Foreign("do_sample", (True,), "temperature"),
    Foreign("random_seed", (), "seed"),
    Foreign("watermark", (False,)),
    Foreign("watermarking", (False,)),
    # Lengths and ends by other names.
    Foreign("max_tokens", (), "max_output_tokens", ("responses",)),
    Foreign("max_completion_tokens", (), "max_output_tokens", ("responses",)),
    Foreign("max_completion_tokens", (), "max_tokens", ("completions", "messages")),
    Foreign("max_output_tokens", (), "max_completion_tokens", ("chat",)),
    Foreign("max_output_tokens", (), "max_tokens", ("completions", "messages")),
    Foreign("max_new_tokens", (), "max_tokens"),
    Foreign("max_length", (), "max_tokens"),
    Foreign("n_predict", (-1,), "max_tokens"),
    Foreign("num_predict", (-1,), "max_tokens"),
    Foreign("min_new_tokens", (0,), "min_tokens"),
    Foreign("min_length", (0,), "min_tokens"),
    Foreign("t_max_predict_ms", (0,)),
    Foreign("stop", ([], ""), "stop_sequences", ("messages",)),
    Foreign("stop", ([], ""), "", ("responses",)),
    Foreign("stop_sequences", ([],), "stop", ("chat", "completions", "responses")),
    Foreign("stop_regex", ([], "")),
    Foreign("include_stop_str_in_output", (False,)),
    Foreign("no_stop_trim", (False,)),
    # What of the answer is told, and how.
    Foreign("echo", (False,), dialects=CHATS),
    Foreign("n", (1,), dialects=("responses", "messages")),
    Foreign("logprobs", (False, 0), "chat completions", ("responses", "messages")),
    Foreign("top_logprobs", (0,), "chat completions", ("messages",)),
    Foreign("top_logprobs", (0,), "logprobs", ("completions",)),
    Foreign("prompt_logprobs", (), "chat completions", ("responses", "messages")),
    Foreign("n_probs", (0,), "logprobs"),
    Foreign("logprob_token_ids", ([],)),
    Foreign("prompt_logprob_token_ids", ([],)),
    Foreign("prompt_logprob_start", (0,)),
    Foreign("return_logprob", (False,), "logprobs"),
    Foreign("skip_special_tokens", (True,)),
    Foreign("detokenize", (True,)),
    Foreign("return_tokens_as_token_ids", (False,)),
    Foreign("return_token_ids", (False,)),
    Foreign("return_tokens", (False,)),
    Foreign("return_token_offsets", (False,)),
    Foreign("return_prompt_text", (False,)),
    Foreign("return_full_text", (False,), "echo"),
    Foreign("return_hidden_states", (False,)),
    Foreign("response_fields", ([],)),
    Foreign("separate_reasoning", (True,)),
    Foreign("include_reasoning", (True,)),
    Foreign("reasoning_format", ("auto", "deepseek", "parsed")),
    # Shapes by names that have several meanings, or that are another dialect's.
    Foreign("format", ("", "text"), "response_format", ("chat", "completions")),
    Foreign("format", ("", "text"), "text.format", ("responses",)),
    Foreign("format", ("", "text"), "output_config.format", ("messages",)),
    Foreign("response_format", _TEXT, "text.format", ("responses",)),
    Foreign("response_format", _TEXT, "output_config.format", ("messages",)),
    Foreign("text", _TEXT_FORMAT, "response_format", ("chat", "completions")),
    Foreign("text", _TEXT_FORMAT, "output_config.format", ("messages",)),
    Foreign("output_config", ({},), "response_format", ("chat", "completions")),
    Foreign("output_config", ({},), "text.format", ("responses",)),
    Foreign("output_format", (), "response_format", ("chat", "completions")),
    Foreign("output_format", (), "text.format", ("responses",)),
    Foreign("response_schema", (), "structured_outputs"),
    Foreign("guided_whitespace_pattern"),
    Foreign("guided_json_object", (False,), "structured_outputs.json_object"),
    Foreign("structural_tag"),
    Foreign("grammar_lazy", (False,)),
    # How the prompt is made.
    Foreign("suffix", ("",), dialects=CHATS),
    Foreign("system", ("", []), "a message of role system", ("chat",)),
    Foreign("system", ("", []), "instructions", ("responses",)),
    Foreign("system", ("", []), "chat completions", ("completions",)),
    Foreign("instructions", ("",), "a message of role system", ("chat",)),
    Foreign("instructions", ("",), "system", ("messages",)),
    Foreign("tools", ([],), "chat completions", ("completions",)),
    Foreign("reasoning_effort", (), "reasoning.effort", ("responses",)),
    Foreign("reasoning_effort", (), "output_config.effort", ("messages",)),
    Foreign("reasoning", ({},), "chat completions", ("completions",)),
    Foreign("reasoning", ({},), "thinking", ("messages",)),
    Foreign("think", (), "enable_thinking"),
    Foreign("thinking", (), "chat completions", ("completions",)),
    Foreign("thinking", (), "enable_thinking", ("responses",)),
    Foreign("thinking_budget"),
    Foreign("thinking_token_budget", (-1,)),
    Foreign("reasoning_budget", (-1,)),
    Foreign("chat_template", (), "chat_template in the configuration"),
    Foreign("template", ("",), "chat_template in the configuration"),
    Foreign("raw", (False,), "completions"),
    Foreign("documents", ([],)),
    Foreign("images", ([],)),
    Foreign("prompt_embeds"),
    Foreign("input_ids", (), "prompt in completions"),
    Foreign("mm_processor_kwargs", ({},)),
    Foreign("media_io_kwargs", ({},)),
    Foreign("add_special_tokens", (True,), dialects=("completions",)),
    Foreign("add_special_tokens", (False,), dialects=CHATS),
    Foreign("truncate_prompt_tokens"),
    Foreign("truncate", (0,)),
    Foreign("num_ctx", (), "context_length in the configuration"),
    Foreign("n_keep", (0, -1)),
    Foreign("safe_prompt", (False,)),
    Foreign("role_mapping", ({},)),
    # Other weights, other servers, other bodies.
    Foreign("lora", ([],)),
    Foreign("lora_path", ("",)),
    Foreign("adapters", ("",)),
    Foreign("adapter_id", ("",)),
    Foreign("draft_model", ("",)),
    Foreign("models", ([],), "model"),
    Foreign("plugins", ([],)),
    Foreign("enable_search", (False,)),
    Foreign("search_parameters", ({},)),
    Foreign("priority", (0,)),
    Foreign("cache_salt", ("",)),
    Foreign("kv_transfer_params", ({},)),
    Foreign("ec_transfer_params", ({},)),
    Foreign("options", ({},), "the same fields in the body itself"),
    Foreign("parameters", ({},), "the same fields in the body itself"),
    Foreign("sampling_params", ({},), "the same fields in the body itself"),
    Foreign("extra_body", ({},), "the same fields in the body itself"),
)
"""What is refused, unless its value is neutral."""

HARMLESS: Final = (
    "cache_prompt",
    "dry_allowed_length",
    "dry_base",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "dynatemp_exponent",
    "guided_decoding_backend",
    "id_slot",
    "keep_alive",
    "min_keep",
    "mirostat_eta",
    "mirostat_tau",
    "num_draft_tokens",
    "provider",
    "request_id",
    "rid",
    "slot_id",
    "smoothing_curve",
    "spaces_between_special_tokens",
    "stream_interval",
    "timings_per_token",
    "truncation_side",
    "usage",
    "xtc_threshold",
)
"""Fields that change no answer by themselves, and are ignored."""


_NULL: Final = msgspec.Raw(b"null")


def refuse_foreign(body: bytes, dialect: Dialect, own: type[msgspec.Struct]) -> None:
    """Raise UnsupportedField for a field of another server that asks for something.

    `own` types the dialect's body, and `body` has been decoded as one before.
    """
    fields, type_ = _known(dialect, own)
    given = msgspec.json.decode(body, type=type_)
    for field in fields:
        if not _is_neutral(getattr(given, field.name), field.neutral):
            instead = f"; use {field.instead}" if field.instead else ""
            raise UnsupportedField(
                f"{field.name}: this node cannot honour this field{instead}", param=field.name
            )


@cache
def _known(
    dialect: Dialect, own: type[msgspec.Struct]
) -> tuple[tuple[Foreign, ...], type[msgspec.Struct]]:
    """Return the fields that are refused in a dialect, and a type that has only them."""
    fields = refused_in(dialect, own)
    columns = [(field.name, msgspec.Raw, _NULL) for field in fields]
    return fields, msgspec.defstruct("ForeignFields", columns)


def refused_in(dialect: Dialect, own: type[msgspec.Struct]) -> tuple[Foreign, ...]:
    """Return the fields that a dialect refuses, but for those of its own body."""
    mine = own.__struct_fields__
    return tuple(it for it in REFUSED if dialect in it.dialects and it.name not in mine)


def _is_neutral(raw: msgspec.Raw, neutral: tuple[Any, ...]) -> bool:
    if raw is _NULL or bytes(raw) == b"null":
        return True
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    # 1 equals True in Python, and not in JSON.
    return any(value == it and isinstance(value, bool) == isinstance(it, bool) for it in neutral)
