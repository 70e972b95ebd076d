"""Refuse the fields of other servers and of other dialects, which this node does not honour.

A closed table: each name, the values that ask for nothing, and what to use instead. Any other value
is refused by name, because the answer would not be what was asked for. Fields that change no answer
are listed too, and ignored; fields in no table are ignored. A name in a dialect's own body belongs
to that dialect. `docs/reference/foreign-fields.md` has the same table.

[front]
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from mlx_worker.errors import UnsupportedField

if TYPE_CHECKING:
    from mlx_worker.api.dialects.base import DialectName

ALL_DIALECTS: Final[tuple[DialectName, ...]] = ("chat", "completions", "responses", "messages")
CHAT_DIALECTS: Final[tuple[DialectName, ...]] = ("chat", "responses", "messages")


class ForeignField(NamedTuple):
    """A field that this node does not honour in these dialects.

    `neutral` are the values that ask for nothing; null always does. `instead` names what to use.
    """

    name: str
    neutral: tuple[Any, ...] = ()
    instead: str = ""
    dialects: tuple[DialectName, ...] = ALL_DIALECTS


_TEXT: Final[tuple[Any, ...]] = ({"type": "text"},)
_TEXT_FORMAT: Final[tuple[Any, ...]] = ({}, {"format": {"type": "text"}})

REFUSED: Final[tuple[ForeignField, ...]] = (
    # Samplers that mlx_lm does not have, or that would need state of their own.
    ForeignField("use_beam_search", (False,)),
    ForeignField("num_beams", (1,)),
    ForeignField("best_of", (1,), dialects=CHAT_DIALECTS),
    ForeignField("length_penalty", (1,)),
    ForeignField("early_stopping", (False,)),
    ForeignField("bad_words", ([],), "logit_bias"),
    ForeignField("allowed_token_ids", ([],), "structured_outputs"),
    ForeignField("custom_token_bans", ("",), "logit_bias"),
    ForeignField("ban_eos_token", (False,), "min_tokens or ignore_eos"),
    ForeignField("logits_processors", ([],)),
    ForeignField("custom_logit_processor", ("",)),
    ForeignField("custom_params", ({},)),
    ForeignField("vllm_xargs", ({},)),
    ForeignField("mirostat", (0,)),
    ForeignField("mirostat_mode", (0,)),
    ForeignField("tfs_z", (1,)),
    ForeignField("tfs", (1,)),
    ForeignField("typ_p", (1,)),
    ForeignField("typical_p", (1,)),
    ForeignField("typical", (1,)),
    ForeignField("top_a", (0,)),
    ForeignField("top_n_sigma", (0, -1)),
    ForeignField("epsilon_cutoff", (0,)),
    ForeignField("eta_cutoff", (0,)),
    ForeignField("smoothing_factor", (0,)),
    ForeignField("dynamic_temperature", (False,)),
    ForeignField("dynatemp_range", (0,)),
    ForeignField("dry_multiplier", (0,)),
    ForeignField("xtc_probability", (0,)),
    ForeignField("penalty_alpha", (0,)),
    ForeignField("guidance_scale", (1,)),
    ForeignField("negative_prompt", ("",)),
    ForeignField("no_repeat_ngram_size", (0,)),
    ForeignField("encoder_repetition_penalty", (1,)),
    ForeignField("repeat_penalty", (0, 1), "repetition_penalty"),
    ForeignField("repeat_last_n", (20, 64)),
    ForeignField("repetition_context_size", (20,)),
    ForeignField("presence_context_size", (20,)),
    ForeignField("frequency_context_size", (20,)),
    ForeignField("repetition_detection", ({},), "loop_guard_repeats in the configuration"),
    ForeignField("samplers"),
    ForeignField("sampler_order"),
    ForeignField("sampler_priority"),
    ForeignField("temperature_last", (False,)),
    ForeignField("do_sample", (True,), "temperature"),
    ForeignField("random_seed", (), "seed"),
    ForeignField("watermark", (False,)),
    ForeignField("watermarking", (False,)),
    # Lengths and ends by other names.
    ForeignField("max_tokens", (), "max_output_tokens", ("responses",)),
    ForeignField("max_completion_tokens", (), "max_output_tokens", ("responses",)),
    ForeignField("max_completion_tokens", (), "max_tokens", ("completions", "messages")),
    ForeignField("max_output_tokens", (), "max_completion_tokens", ("chat",)),
    ForeignField("max_output_tokens", (), "max_tokens", ("completions", "messages")),
    ForeignField("max_new_tokens", (), "max_tokens"),
    ForeignField("max_length", (), "max_tokens"),
    ForeignField("n_predict", (-1,), "max_tokens"),
    ForeignField("num_predict", (-1,), "max_tokens"),
    ForeignField("min_new_tokens", (0,), "min_tokens"),
    ForeignField("min_length", (0,), "min_tokens"),
    ForeignField("t_max_predict_ms", (0,)),
    ForeignField("stop", ([], ""), "stop_sequences", ("messages",)),
    ForeignField("stop", ([], ""), "", ("responses",)),
    ForeignField("stop_sequences", ([],), "stop", ("chat", "completions", "responses")),
    ForeignField("stop_regex", ([], "")),
    ForeignField("include_stop_str_in_output", (False,)),
    ForeignField("no_stop_trim", (False,)),
    # What the response contains, and how.
    ForeignField("echo", (False,), dialects=CHAT_DIALECTS),
    ForeignField("n", (1,), dialects=("responses", "messages")),
    ForeignField("logprobs", (False, 0), "chat completions", ("responses", "messages")),
    ForeignField("top_logprobs", (0,), "chat completions", ("messages",)),
    ForeignField("top_logprobs", (0,), "logprobs", ("completions",)),
    ForeignField("prompt_logprobs", (), "chat completions", ("responses", "messages")),
    ForeignField("n_probs", (0,), "logprobs"),
    ForeignField("logprob_token_ids", ([],)),
    ForeignField("prompt_logprob_token_ids", ([],)),
    ForeignField("prompt_logprob_start", (0,)),
    ForeignField("return_logprob", (False,), "logprobs"),
    ForeignField("skip_special_tokens", (True,)),
    ForeignField("detokenize", (True,)),
    ForeignField("return_tokens_as_token_ids", (False,)),
    ForeignField("return_token_ids", (False,)),
    ForeignField("return_tokens", (False,)),
    ForeignField("return_token_offsets", (False,)),
    ForeignField("return_prompt_text", (False,)),
    ForeignField("return_full_text", (False,), "echo"),
    ForeignField("return_hidden_states", (False,)),
    ForeignField("response_fields", ([],)),
    ForeignField("separate_reasoning", (True,)),
    ForeignField("include_reasoning", (True,)),
    ForeignField("reasoning_format", ("auto", "deepseek", "parsed")),
    # Constraints by names that have several meanings, or that are another dialect's.
    ForeignField("format", ("", "text"), "response_format", ("chat", "completions")),
    ForeignField("format", ("", "text"), "text.format", ("responses",)),
    ForeignField("format", ("", "text"), "output_config.format", ("messages",)),
    ForeignField("response_format", _TEXT, "text.format", ("responses",)),
    ForeignField("response_format", _TEXT, "output_config.format", ("messages",)),
    ForeignField("text", _TEXT_FORMAT, "response_format", ("chat", "completions")),
    ForeignField("text", _TEXT_FORMAT, "output_config.format", ("messages",)),
    ForeignField("output_config", ({},), "response_format", ("chat", "completions")),
    ForeignField("output_config", ({},), "text.format", ("responses",)),
    ForeignField("output_format", (), "response_format", ("chat", "completions")),
    ForeignField("output_format", (), "text.format", ("responses",)),
    ForeignField("response_schema", (), "structured_outputs"),
    ForeignField("guided_whitespace_pattern"),
    ForeignField("guided_json_object", (False,), "structured_outputs.json_object"),
    ForeignField("structural_tag"),
    ForeignField("grammar_lazy", (False,)),
    # How the prompt is built.
    ForeignField("suffix", ("",), dialects=CHAT_DIALECTS),
    ForeignField("system", ("", []), "a message of role system", ("chat",)),
    ForeignField("system", ("", []), "instructions", ("responses",)),
    ForeignField("system", ("", []), "chat completions", ("completions",)),
    ForeignField("instructions", ("",), "a message of role system", ("chat",)),
    ForeignField("instructions", ("",), "system", ("messages",)),
    ForeignField("tools", ([],), "chat completions", ("completions",)),
    ForeignField("reasoning_effort", (), "reasoning.effort", ("responses",)),
    ForeignField("reasoning_effort", (), "output_config.effort", ("messages",)),
    ForeignField("reasoning", ({},), "chat completions", ("completions",)),
    ForeignField("reasoning", ({},), "thinking", ("messages",)),
    ForeignField("think", (), "enable_thinking"),
    ForeignField("thinking", (), "chat completions", ("completions",)),
    ForeignField("thinking", (), "enable_thinking", ("responses",)),
    ForeignField("chat_template", (), "chat_template in the configuration"),
    ForeignField("template", ("",), "chat_template in the configuration"),
    ForeignField("raw", (False,), "completions"),
    ForeignField("documents", ([],)),
    ForeignField("images", ([],)),
    ForeignField("prompt_embeds"),
    ForeignField("input_ids", (), "prompt in completions"),
    ForeignField("mm_processor_kwargs", ({},)),
    ForeignField("media_io_kwargs", ({},)),
    ForeignField("add_special_tokens", (True,), dialects=("completions",)),
    ForeignField("add_special_tokens", (False,), dialects=CHAT_DIALECTS),
    ForeignField("truncate_prompt_tokens"),
    ForeignField("truncate", (0,)),
    ForeignField("num_ctx", (), "context_length in the configuration"),
    ForeignField("n_keep", (0, -1)),
    ForeignField("safe_prompt", (False,)),
    ForeignField("role_mapping", ({},)),
    ForeignField("background", (False,), "responses", ("chat", "completions", "messages")),
    # Other weights, other servers, other bodies.
    ForeignField("lora", ([],)),
    ForeignField("lora_path", ("",)),
    ForeignField("adapters", ("",)),
    ForeignField("adapter_id", ("",)),
    ForeignField("draft_model", ("",)),
    ForeignField("models", ([],), "model"),
    ForeignField("plugins", ([],)),
    ForeignField("enable_search", (False,)),
    ForeignField("search_parameters", ({},)),
    ForeignField("priority", (0,)),
    ForeignField("cache_salt", ("",)),
    ForeignField("kv_transfer_params", ({},)),
    ForeignField("ec_transfer_params", ({},)),
    ForeignField("options", ({},), "the same fields in the body itself"),
    ForeignField("parameters", ({},), "the same fields in the body itself"),
    ForeignField("sampling_params", ({},), "the same fields in the body itself"),
    ForeignField("extra_body", ({},), "the same fields in the body itself"),
)
"""Fields that are refused, unless their value is neutral."""

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


def refuse_foreign(data: bytes, dialect: DialectName, body_type: type[msgspec.Struct]) -> None:
    """Raise UnsupportedField for a field of another server that asks for something.

    `data` is a body that has been decoded as `body_type` before.
    """
    fields, foreign_type = _foreign_type(dialect, body_type)
    given = msgspec.structs.astuple(msgspec.json.decode(data, type=foreign_type))
    for field, value in zip(fields, given, strict=True):
        # Nearly always absent, and each request walks over all of them.
        if value is not _NULL and not _is_neutral(value, field.neutral):
            instead = f"; use {field.instead}" if field.instead else ""
            raise UnsupportedField(
                f"{field.name}: this node cannot honour this field{instead}", param=field.name
            )


@cache
def _foreign_type(
    dialect: DialectName, body_type: type[msgspec.Struct]
) -> tuple[tuple[ForeignField, ...], type[msgspec.Struct]]:
    """Return the fields that are refused in a dialect, and a type that has only them."""
    fields = refused_in(dialect, body_type)
    columns = [(field.name, msgspec.Raw, _NULL) for field in fields]
    return fields, msgspec.defstruct("ForeignFields", columns)


def refused_in(dialect: DialectName, body_type: type[msgspec.Struct]) -> tuple[ForeignField, ...]:
    """Return the fields that a dialect refuses, without those of its own body."""
    own_names = body_type.__struct_fields__
    return tuple(
        field for field in REFUSED if dialect in field.dialects and field.name not in own_names
    )


def _is_neutral(raw: msgspec.Raw, neutral: tuple[Any, ...]) -> bool:
    if bytes(raw) == b"null":
        return True
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    # 1 equals True in Python, and not in JSON.
    return any(
        value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
        for allowed in neutral
    )
