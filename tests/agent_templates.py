"""Chat templates that stand in for those of model families, and what such a model writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from mlx_worker.bench.synthetic.folder import make_folder
from mlx_worker.bench.synthetic.llama import LLAMA, NANO
from mlx_worker.bench.synthetic.tokenizer import IM_END, SPECIALS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from random import Random

THINK, THOUGHT = "<think>", "</think>"
CALL, CALLED = "<tool_call>", "</tool_call>"

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Said:
    """What a model says in one turn."""

    reasoning: str = ""
    content: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class AgentFamily:
    """A template with what its model writes.

    `write` returns the raw text of a turn, as from the end of the prompt. `keeps` says which
    reasoning of earlier turns the template shows: none, that since the user's last message, or all.
    """

    name: str
    template: str
    write: Callable[[Said, Random], str]
    ends: tuple[str, ...] = (IM_END,)
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = (CALL, CALLED)
    reasons: bool = False
    keeps: Literal["none", "chain", "all"] = "all"
    several_calls: bool = True
    tools: Literal["refuse", "prompt"] = "refuse"

    def make(self, folder: Path) -> Path:
        """Write a model of this family into a folder."""
        words = tuple(word for word in (*self.special, *self.added) if word not in SPECIALS)
        make_folder(replace(NANO, template=self.template, added=words), LLAMA, folder)
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        for token in tokenizer["added_tokens"]:
            token["special"] = token["content"] in (*SPECIALS, *self.special)
        file.write_text(json.dumps(tokenizer))
        ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        file = folder / "config.json"
        config = json.loads(file.read_text())
        config["eos_token_id"] = [ids[end] for end in self.ends]
        file.write_text(json.dumps(config))
        file = folder / "tokenizer_config.json"
        known = json.loads(file.read_text())
        file.write_text(json.dumps(known | {"eos_token": self.ends[0]}))
        return folder


# --- what a model writes ------------------------------------------------------------------


def spelled(value: Any, random: Random) -> str:
    """Return JSON in one of the spellings that models write, the keys in any order."""
    if isinstance(value, dict):
        keys = random.sample(sorted(value), len(value))
        value = {key: value[key] for key in keys}
    return json.dumps(
        value,
        ensure_ascii=random.random() < 0.3,
        separators=random.choice([(", ", ": "), (",", ":"), (" , ", " : ")]),
        indent=random.choice([None, None, None, 2]),
    )


def _thought(said: Said, random: Random, *, opened: bool) -> str:
    if not said.reasoning and not opened:
        return ""
    begin = "" if opened else f"{THINK}{random.choice(['', chr(10)])}"
    return f"{begin}{said.reasoning}{random.choice(['', chr(10)])}{THOUGHT}\n\n"


def _json_calls(said: Said, random: Random) -> str:
    written = []
    for name, arguments in said.calls:
        call = {"name": name, "arguments": arguments}
        inner = f"\n{spelled(call, random)}\n" if random.random() < 0.8 else json.dumps(call)
        written.append(f"{CALL}{inner}{CALLED}")
    return random.choice(["\n", "\n\n", ""]).join(written)


def _chatml(said: Said, random: Random, *, opened: bool = False) -> str:
    between = "\n" if said.content and said.calls else ""
    thought = _thought(said, random, opened=opened)
    return thought + said.content + between + _json_calls(said, random) + IM_END


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _coder(said: Said, random: Random) -> str:
    written = []
    for name, arguments in said.calls:
        keys = random.sample(sorted(arguments), len(arguments))
        inner = "".join(
            f"<parameter={key}>\n{_in_words(arguments[key])}\n</parameter>\n" for key in keys
        )
        written.append(f"{CALL}\n<function={name}>\n{inner}</function>\n{CALLED}")
    between = "\n\n" if said.content and said.calls else ""
    return said.content + between + "\n".join(written) + IM_END


def _glm(said: Said, random: Random) -> str:
    written = []
    for name, arguments in said.calls:
        keys = random.sample(sorted(arguments), len(arguments))
        inner = "".join(
            f"<arg_key>{key}</arg_key>\n<arg_value>{_in_words(arguments[key])}</arg_value>\n"
            for key in keys
        )
        written.append(f"{CALL}{name}\n{inner}{CALLED}")
    content = f"\n{said.content}" if said.content else ""
    end = "<|observation|>" if said.calls else "<|user|>"
    calls = "".join(f"\n{call}" for call in written)
    return f"\n{THINK}{said.reasoning}{THOUGHT}{content}{calls}{end}"


def _mistral(said: Said, random: Random) -> str:
    calls = "".join(
        f"[TOOL_CALLS]{name}[ARGS]{spelled(arguments, random)}" for name, arguments in said.calls
    )
    return f"{random.choice([' ', ''])}{said.content}{calls}</s>"


def _llama(said: Said, random: Random) -> str:
    between = "\n" if said.content and said.calls else ""
    return said.content + between + _json_calls(said, random) + "<|eot_id|>"


# --- templates ----------------------------------------------------------------------------

_TOOLS: Final = (
    "{%- if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n{% endif %}Tools:"
    "{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}<|im_end|>\n{%- endif %}"
)
_JSON_CALLS: Final = (
    "{%- for tool_call in m.tool_calls or [] %}{% set tool_call = tool_call.function %}"
    "{%- if not loop.first or m.content %}{{ '\\n' }}{% endif %}"
    '{{- \'<tool_call>\\n{"name": "\' + tool_call.name + \'", "arguments": \' }}'
    "{{- (tool_call.arguments | tojson) + '}\\n</tool_call>' }}{%- endfor %}"
)
_RESULT: Final = (
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}"
    "{{- '<|im_end|>\\n' }}{% endif %}"
)
_OTHER: Final = (
    "{%- elif not (tools and loop.first and m.role == 'system') %}"
    "{{- '<|im_start|>' + m.role + '\\n' + (m.content or '') + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
)
_LAST_USER: Final = (
    "{%- set last = namespace(user=-1) %}{%- for m in messages %}{% if m.role == 'user' %}"
    "{%- set last.user = loop.index0 %}{% endif %}{% endfor %}"
)


def _chatml_template(calls: str, thought: str = "", begins: str = "", before: str = "") -> str:
    return (
        before
        + _TOOLS
        + "{%- for m in messages %}{% if m.role == 'tool' %}"
        + _RESULT
        + "{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}"
        + thought
        + "{{- m.content or '' }}"
        + calls
        + "{{- '<|im_end|>\\n' }}"
        + _OTHER
        + "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n"
        + begins
        + "' }}{% endif %}"
    )


_THOUGHT: Final = (
    "{%- if loop.index0 > last.user and m.reasoning_content %}"
    "{{- '<think>\\n' + m.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}"
)
_CODER_CALLS: Final = (
    "{%- for tool_call in m.tool_calls or [] %}{% set tool_call = tool_call.function %}"
    "{{- '\\n' }}{{- '<tool_call>\\n<function=' + tool_call.name + '>\\n' }}"
    "{%- for name, value in tool_call.arguments | items %}"
    "{{- '<parameter=' + name + '>\\n' }}"
    "{{- value if value is string else value | tojson }}{{- '\\n</parameter>\\n' }}{% endfor %}"
    "{{- '</function>\\n</tool_call>' }}{% endfor %}"
)
_GLM: Final = (
    _LAST_USER + "<|system|>\n{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'system' %}<|system|>\n{{ m.content }}"
    "{%- elif m.role == 'user' %}<|user|>\n{{ m.content }}"
    "{%- elif m.role == 'tool' %}"
    "{%- if messages[loop.index0 - 1].role != 'tool' %}<|observation|>{% endif %}"
    "{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}"
    "{%- else %}<|assistant|>"
    "{%- if loop.index0 > last.user and m.reasoning_content %}"
    "{{- '\\n<think>' + m.reasoning_content.strip() + '</think>' }}"
    "{%- else %}{{- '\\n<think></think>' }}{% endif %}"
    "{%- if m.content %}{{ '\\n' + m.content.strip() }}{% endif %}"
    "{%- for c in m.tool_calls or [] %}{% set c = c.function %}{{- '\\n<tool_call>' + c.name }}"
    "{%- for k, v in c.arguments | items %}{{- '\\n<arg_key>' + k + '</arg_key>\\n<arg_value>' }}"
    "{{- v if v is string else v | tojson }}{{- '</arg_value>' }}{% endfor %}"
    "{{- '\\n</tool_call>' }}{% endfor %}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}<|assistant|>{% endif %}"
)
_MISTRAL: Final = (
    "<s>{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{%- elif m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
    "{%- elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]"
    "{%- else %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}</s>"
    "{%- endif %}{%- endfor %}"
)
_LLAMA: Final = (
    "<|begin_of_text|>{%- for m in messages %}"
    "{%- if m.role == 'tool' or m.tool_calls %}{{ raise_exception('no tools') }}{% endif %}"
    "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim }}"
    "{{- '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
_ONE_CALL: Final = (
    "{%- if m.tool_calls and m.tool_calls | length != 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}" + _JSON_CALLS
)
_THINKER_TOKENS: Final = (THINK, THOUGHT, CALL, CALLED)


def _opened(said: Said, random: Random) -> str:
    return _chatml(said, random, opened=True)


FAMILIES: Final[Sequence[AgentFamily]] = (
    AgentFamily("hermes", _chatml_template(_JSON_CALLS), _chatml),
    AgentFamily(
        "qwen3",
        _chatml_template(_JSON_CALLS, _THOUGHT, before=_LAST_USER),
        _chatml,
        added=_THINKER_TOKENS,
        reasons=True,
        keeps="chain",
    ),
    AgentFamily(
        "qwen3-thinking",
        _chatml_template(_JSON_CALLS, _THOUGHT, "<think>\\n", _LAST_USER),
        _opened,
        added=_THINKER_TOKENS,
        reasons=True,
        keeps="chain",
    ),
    AgentFamily("qwen3-coder", _chatml_template(_CODER_CALLS), _coder),
    AgentFamily(
        "glm",
        _GLM,
        _glm,
        ends=("<|user|>", "<|observation|>"),
        special=("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        added=(*_THINKER_TOKENS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        reasons=True,
        keeps="chain",
    ),
    AgentFamily(
        "mistral",
        _MISTRAL,
        _mistral,
        ends=("</s>",),
        special=("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        added=("[TOOL_CALLS]", "[ARGS]"),
    ),
    AgentFamily(
        "llama",
        _LLAMA,
        _llama,
        ends=("<|eot_id|>",),
        special=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        tools="prompt",
    ),
    AgentFamily("one-call", _chatml_template(_ONE_CALL), _chatml, several_calls=False),
)
