"""Tiny models, made on the spot: what the tests serve instead of a downloaded model.

A folder made here is an ordinary mlx_lm model (config, weights, tokenizer, chat template): it loads
through the same code as a real one, but a decode step takes about a millisecond, so a test
exercises the serving stack and not the arithmetic. The weights are random and frozen, tuned only
so that greedy decoding never stops by itself, prints plain English words, and depends on the whole
prompt: a token lost, repeated or given to the wrong stream changes the text. Most tests serve a
llama; the other families are there for their caches: a sliding window, recurrent states.

Only the standard library is used. The process that runs the tests thus stays free of mlx (one that
has used it cannot be forked), and the files are the same bytes whatever versions are installed.

As a script: ``python tests/made_models.py nano DEST``.
"""

import argparse
import json
import math
import random
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

VOCABULARY = 1024
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
SPECIALS = (IM_START, IM_END)

# ChatML. Content may be null (an assistant message that only calls tools).
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# The same, for a model that reasons and calls tools as Qwen does.
CALLER_TEMPLATE = (
    "{%- if tools %}"
    "{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}"
    "{{- 'Tools:' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if not (tools and loop.first and message.role == 'system') %}"
    "{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}"
    "{%- for tool_call in message.tool_calls or [] %}"
    "{%- set tool_call = tool_call.function %}"
    '{{- \'<tool_call>\\n{"name": "\' + tool_call.name + \'", "arguments": \' }}'
    "{{- (tool_call.arguments | tojson) + '}\\n</tool_call>' }}"
    "{%- endfor %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking %}{{- '<think>\\n' }}{%- endif %}"
    "{%- endif %}"
)
THINK, THOUGHT = "<think>", "</think>"
CALL, CALLED = "<tool_call>", "</tool_call>"
CALL_PARTS = ('{"name": "look", "arguments": {"at": ', '"the river"}}', '"the moon"}}')
"""Tokens of their own, so that a test can have the model say a whole call by biases alone."""

CORPUS = """
the user asked a question and the assistant gave an answer about the system or a tool
once there was an old miller who lived by the river with three sons and one grey cat
every morning he carried flour to market while his boys slept under their warm blankets
when winter came snow covered all roads so nobody could travel from village into town
then a stranger knocked at night asking for bread fire and some place where to rest
we are what you make of us said she as they walked home through fields after rain
it is not how much light falls but which window stays open that matters most here
birds sing before dawn because silence would be too heavy for such small hearts
his brother built a bridge out of stone but water broke it again within seven years
do not forget your lamp my child or else dark woods will swallow both path and moon
a ship left harbour under white sails carrying salt wool iron and letters for friends
her garden grew apples pears plums beans onions even roses between two broken walls
if I had known this story earlier said king to queen our kingdom might have been saved
"""
WORDS = tuple(dict.fromkeys(CORPUS.split()))


@dataclass(frozen=True)
class Spec:
    """The shape of one model, and the seed that picks its weights (tried, not guessed)."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    seed: int
    context: int = 8192
    family: str = "llama"
    template: str = CHAT_TEMPLATE
    added: tuple[str, ...] = ()
    """Tokens that are added to the vocabulary and are no special ones."""


SPECS: Mapping[str, Spec] = {
    "nano": Spec(hidden=32, layers=1, heads=2, intermediate=64, seed=1),
    "tiny": Spec(hidden=64, layers=2, heads=4, intermediate=128, seed=1),
    # It reasons and calls tools: a format that mlx_lm knows.
    "caller": Spec(
        hidden=32,
        layers=1,
        heads=2,
        intermediate=64,
        seed=1,
        template=CALLER_TEMPLATE,
        added=(THINK, THOUGHT, CALL, CALLED, *CALL_PARTS),
    ),
    # Two layers that see 32 tokens back, then one that sees everything.
    "window": Spec(hidden=32, layers=3, heads=2, intermediate=64, seed=4, family="gemma3_text"),
    # Attention and a state-space mixer side by side in each layer.
    "statespace": Spec(hidden=32, layers=2, heads=2, intermediate=64, seed=3, family="falcon_h1"),
    # A layer of gated linear attention, then one of ordinary attention.
    "delta": Spec(hidden=32, layers=2, heads=2, intermediate=64, seed=2, family="qwen3_next"),
    # No attention at all.
    "recurrent": Spec(hidden=32, layers=2, heads=4, intermediate=64, seed=3, family="mamba2"),
    # The same, of a family whose code in mlx_lm does not know of padding: not to be batched.
    "unpadded": Spec(hidden=32, layers=1, heads=1, intermediate=64, seed=5, family="mamba"),
}
WINDOW = 32
"""Tokens that the sliding layers of "window" see."""
CONVOLUTION = 4
"""Tokens that a short convolution in front of a recurrent state sees."""
TIME_RANK = 4
"""Channels that say how far a step of time is."""
STATE = 16
"""What a state-space mixer keeps, by the number of a head's channels."""
FORGETTING = 0.01
"""How fast a recurrent state decays: about this share of it a token."""

# How far each kind of matrix stretches a vector of unit variance. Attention speaks louder than the
# token itself, else greedy decoding is a walk from word to word that soon closes into a loop. The
# head is loud so that a special token, whose logit is 0, is hardly ever sampled either.
GAINS: Mapping[str, float] = {
    "q_proj": 2.0,
    "k_proj": 2.0,
    "v_proj": 2.0,
    "o_proj": 2.0,
    "gate_proj": 1.5,
    "up_proj": 1.5,
    "down_proj": 1.5,
    "lm_head": 4.5,
    "conv1d": 1.5,
    "in_proj": 1.5,
    "in_proj_qkvz": 2.0,
    "in_proj_ba": 1.0,
    "out_proj": 2.0,
    "x_proj": 1.0,
    "dt_proj": 1.0,
}

Shape: TypeAlias = tuple[int, ...]
Floats: TypeAlias = "array[float]"  # quoted: Python 3.11 cannot subscript it


def make_nano(folder: Path) -> Path:
    """The fastest model there is: a step is 1 ms, so the serving stack is the bottleneck."""
    return make("nano", folder)


def make_caller(folder: Path) -> Path:
    """A model that reasons and calls tools, once it is made to."""
    return make("caller", folder)


def make_tiny(folder: Path) -> Path:
    """A model whose prefill costs enough to be measured: for prefix reuse and first tokens."""
    return make("tiny", folder)


def make(name: str, folder: Path) -> Path:
    """Write the model called *name* into *folder* and return the folder."""
    spec = SPECS[name]
    tokens = vocabulary(spec)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config(spec))
    write_json(folder / "tokenizer.json", tokenizer(spec, tokens))
    write_json(folder / "tokenizer_config.json", tokenizer_config(spec))
    write_safetensors(folder / "model.safetensors", weights(spec, tokens))
    return folder


def config(spec: Spec) -> dict[str, Any]:
    return FAMILIES[spec.family].config(spec)


def llama_config(spec: Spec) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.heads,
        "intermediate_size": spec.intermediate,
        "max_position_embeddings": spec.context,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "eos_token_id": SPECIALS.index(IM_END),
        "dtype": "float32",
    }


def gemma3_config(spec: Spec) -> dict[str, Any]:
    head = spec.hidden // spec.heads
    return {
        **llama_config(spec),
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": head,
        "query_pre_attn_scalar": head // 4,  # attention that picks
        "sliding_window": WINDOW,
        "sliding_window_pattern": spec.layers,
    }


def falcon_h1_config(spec: Spec) -> dict[str, Any]:
    head = spec.hidden // spec.heads
    return {
        **llama_config(spec),
        "architectures": ["FalconH1ForCausalLM"],
        "model_type": "falcon_h1",
        "head_dim": head,
        "mamba_d_conv": CONVOLUTION,
        "mamba_d_head": head,
        "mamba_d_ssm": spec.hidden,
        "mamba_d_state": STATE,
        "mamba_n_heads": spec.heads,
        "mamba_rms_norm": True,
    }


def qwen3_next_config(spec: Spec) -> dict[str, Any]:
    head = spec.hidden // spec.heads
    return {
        **llama_config(spec),
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "head_dim": head,
        "partial_rotary_factor": 0.5,
        "full_attention_interval": spec.layers,
        "linear_num_key_heads": spec.heads,
        "linear_num_value_heads": spec.heads,
        "linear_key_head_dim": head,
        "linear_value_head_dim": head,
        "linear_conv_kernel_dim": CONVOLUTION,
        # Every layer's perceptron is dense.
        "num_experts": 0,
        "num_experts_per_tok": 0,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 0,
        "shared_expert_intermediate_size": 0,
    }


def mamba_config(spec: Spec) -> dict[str, Any]:
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_size": spec.hidden,
        "intermediate_size": spec.intermediate,
        "num_hidden_layers": spec.layers,
        "state_size": STATE,
        "conv_kernel": CONVOLUTION,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": TIME_RANK,
        "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": spec.context,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "eos_token_id": SPECIALS.index(IM_END),
        "dtype": "float32",
    }


def mamba2_config(spec: Spec) -> dict[str, Any]:
    return {
        **mamba_config(spec),
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "num_heads": spec.heads,
        "head_dim": spec.intermediate // spec.heads,
        "n_groups": 1,
        "time_step_limit": [0.0, 1e9],
    }


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte, by which byte-level BPE files are written."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def merges(spec: Spec) -> list[tuple[str, str]]:
    """Merge rules that spell each word letter by letter, first with its space, then without.

    Written down instead of trained: a trainer's ties would hang on its version. Spaced words
    come first, so the rules of the bare ones never split them.
    """
    space = byte_alphabet()[ord(" ")]
    spelled = [*(space + word for word in WORDS), *WORDS]
    rules = dict.fromkeys(
        (before, letter)
        for word in spelled
        for before, letter in zip(accumulate(word), word[1:], strict=False)
    )
    room = VOCABULARY - len(SPECIALS) - len(spec.added) - 256
    assert len(rules) >= room, f"the corpus makes {len(rules)} merges of {room}"
    return list(rules)[:room]


def vocabulary(spec: Spec) -> list[str]:
    """Every token in the order of its id."""
    return [*SPECIALS, *spec.added, *byte_alphabet(), *("".join(pair) for pair in merges(spec))]


def tokenizer(spec: Spec, tokens: list[str]) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token in SPECIALS,
            }
            for number, token in enumerate((*SPECIALS, *spec.added))
        ],
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges(spec),
        },
    }


def tokenizer_config(spec: Spec) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": IM_END,
        "additional_special_tokens": list(SPECIALS),
        "clean_up_tokenization_spaces": False,
        "model_max_length": spec.context,
        "chat_template": spec.template,
    }


def shapes(spec: Spec) -> dict[str, Shape]:
    """The name and shape of every tensor, as mlx_lm calls them."""
    return FAMILIES[spec.family].shapes(spec)


def around(spec: Spec, block: Mapping[str, Shape], norm: str = "norm") -> dict[str, Shape]:
    """Layers of this block between embeddings and a head of their own."""
    return {
        "model.embed_tokens.weight": (VOCABULARY, spec.hidden),
        **{
            f"model.layers.{layer}.{part}": shape
            for layer in range(spec.layers)
            for part, shape in block.items()
        },
        f"model.{norm}.weight": (spec.hidden,),
        "lm_head.weight": (VOCABULARY, spec.hidden),
    }


def attention(spec: Spec) -> dict[str, Shape]:
    square = (spec.hidden, spec.hidden)
    return {f"self_attn.{part}_proj.weight": square for part in "qkvo"}


def perceptron(spec: Spec, name: str = "mlp") -> dict[str, Shape]:
    return {
        f"{name}.gate_proj.weight": (spec.intermediate, spec.hidden),
        f"{name}.up_proj.weight": (spec.intermediate, spec.hidden),
        f"{name}.down_proj.weight": (spec.hidden, spec.intermediate),
    }


def norms(width: int, *names: str) -> dict[str, Shape]:
    return {f"{name}.weight": (width,) for name in names}


def mixer(name: str, hidden: int, inner: int, heads: int) -> dict[str, Shape]:
    """A state-space mixer of one group."""
    mixed = inner + 2 * STATE
    return {
        f"{name}.in_proj.weight": (inner + mixed + heads, hidden),
        f"{name}.conv1d.weight": (mixed, CONVOLUTION, 1),
        f"{name}.conv1d.bias": (mixed,),
        f"{name}.dt_bias": (heads,),
        f"{name}.A_log": (heads,),
        f"{name}.D": (heads,),
        f"{name}.norm.weight": (inner,),
        f"{name}.out_proj.weight": (hidden, inner),
    }


def llama_shapes(spec: Spec) -> dict[str, Shape]:
    return around(
        spec,
        {
            **norms(spec.hidden, "input_layernorm"),
            **attention(spec),
            **norms(spec.hidden, "post_attention_layernorm"),
            **perceptron(spec),
        },
    )


def gemma3_shapes(spec: Spec) -> dict[str, Shape]:
    head = spec.hidden // spec.heads
    return around(
        spec,
        {
            **norms(spec.hidden, "input_layernorm", "post_attention_layernorm"),
            **attention(spec),
            **norms(head, "self_attn.q_norm", "self_attn.k_norm"),
            **norms(spec.hidden, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
            **perceptron(spec),
        },
    )


def falcon_h1_shapes(spec: Spec) -> dict[str, Shape]:
    return around(
        spec,
        {
            **norms(spec.hidden, "input_layernorm", "pre_ff_layernorm"),
            **attention(spec),
            **mixer("mamba", spec.hidden, spec.hidden, spec.heads),
            **perceptron(spec, "feed_forward"),
        },
        norm="final_layernorm",
    )


def qwen3_next_shapes(spec: Spec) -> dict[str, Shape]:
    hidden, head = spec.hidden, spec.hidden // spec.heads
    shared = {
        **norms(hidden, "input_layernorm", "post_attention_layernorm"),
        **perceptron(spec),
    }
    linear: dict[str, Shape] = {
        "linear_attn.in_proj_qkvz.weight": (4 * hidden, hidden),
        "linear_attn.in_proj_ba.weight": (2 * spec.heads, hidden),
        "linear_attn.conv1d.weight": (3 * hidden, CONVOLUTION, 1),
        "linear_attn.dt_bias": (spec.heads,),
        "linear_attn.A_log": (spec.heads,),
        "linear_attn.norm.weight": (head,),
        "linear_attn.out_proj.weight": (hidden, hidden),
    }
    full = {
        **attention(spec),
        "self_attn.q_proj.weight": (2 * hidden, hidden),  # with the gate
        **norms(head, "self_attn.q_norm", "self_attn.k_norm"),
    }
    layers = {
        f"model.layers.{layer}.{part}": shape
        for layer in range(spec.layers)
        for part, shape in {**shared, **(full if layer + 1 == spec.layers else linear)}.items()
    }
    return {**around(spec, {}), **layers}


def mamba_shapes(spec: Spec) -> dict[str, Shape]:
    hidden, inner = spec.hidden, spec.intermediate
    return backbone(
        spec,
        {
            "mixer.in_proj.weight": (2 * inner, hidden),
            "mixer.conv1d.weight": (inner, CONVOLUTION, 1),
            "mixer.conv1d.bias": (inner,),
            "mixer.x_proj.weight": (TIME_RANK + 2 * STATE, inner),
            "mixer.dt_proj.weight": (inner, TIME_RANK),
            "mixer.dt_proj.bias": (inner,),
            "mixer.A_log": (inner, STATE),
            "mixer.D": (inner,),
            "mixer.out_proj.weight": (hidden, inner),
        },
    )


def mamba2_shapes(spec: Spec) -> dict[str, Shape]:
    return backbone(spec, mixer("mixer", spec.hidden, spec.intermediate, spec.heads))


def backbone(spec: Spec, mixer: Mapping[str, Shape]) -> dict[str, Shape]:
    """Mixers alone, under the names that mambas have."""
    block = {**norms(spec.hidden, "norm"), **mixer}
    return {
        "backbone.embeddings.weight": (VOCABULARY, spec.hidden),
        **{
            f"backbone.layers.{layer}.{part}": shape
            for layer in range(spec.layers)
            for part, shape in block.items()
        },
        "backbone.norm_f.weight": (spec.hidden,),
        "lm_head.weight": (VOCABULARY, spec.hidden),
    }


@dataclass(frozen=True)
class Family:
    """How one architecture describes itself, and its tensors."""

    config: Callable[[Spec], dict[str, Any]]
    shapes: Callable[[Spec], dict[str, Shape]]
    unit: float = 1.0
    """What a norm's weight is where it changes nothing."""
    gains: Mapping[str, float] = field(default_factory=dict)
    """Where it wants other gains."""


FAMILIES: Mapping[str, Family] = {
    "llama": Family(llama_config, llama_shapes),
    "gemma3_text": Family(gemma3_config, gemma3_shapes, unit=0.0, gains={"embed_tokens": 1.0}),
    "falcon_h1": Family(falcon_h1_config, falcon_h1_shapes),
    # Here norms count from 1, as in what mlx_lm converts: a raw checkpoint's count from 0.
    "qwen3_next": Family(
        qwen3_next_config, qwen3_next_shapes, gains={"out_proj": 5.0, "o_proj": 5.0}
    ),
    "mamba": Family(mamba_config, mamba_shapes, gains={"in_proj": 2.0, "out_proj": 4.0}),
    "mamba2": Family(mamba2_config, mamba2_shapes, gains={"in_proj": 2.0, "out_proj": 4.0}),
}


def weights(spec: Spec, tokens: list[str]) -> dict[str, tuple[Shape, Floats]]:
    tensors = {name: (shape, values(spec, name, shape)) for name, shape in shapes(spec).items()}
    _, head = tensors["lm_head.weight"]
    silence(head, spec.hidden, tokens)
    return tensors


def values(spec: Spec, name: str, shape: Shape) -> Floats:
    """Uniform noise, but for vectors; each tensor has its own stream, named after it."""
    count = math.prod(shape)
    if len(shape) == 1 or name.endswith("A_log"):
        return array("f", [constant(spec, name)]) * count
    kind = name.split(".")[-2]
    gains = {**GAINS, **FAMILIES[spec.family].gains}
    gain = gains[kind] / math.sqrt(shape[1]) if kind in gains else 1.0
    reach = gain * math.sqrt(3)  # uniform in ±√3 has unit variance
    draw = random.Random(f"{spec.seed}/{name}").random
    return array("f", (reach * (2 * draw() - 1) for _ in range(count)))


def constant(spec: Spec, name: str) -> float:
    """What is not noise: norms pass on, states forget slowly."""
    *_, owner, last = name.split(".")
    if last == "A_log":
        return math.log(FORGETTING)
    if last == "bias" or owner.endswith("conv1d"):
        return 0.0
    return FAMILIES[spec.family].unit if last == "weight" else 1.0


def silence(head: Floats, hidden: int, tokens: list[str]) -> None:
    """Zero the head's row of all but whole spaced words: greedy never picks a logit of 0."""
    space = byte_alphabet()[ord(" ")]
    spoken = {space + word for word in WORDS}
    for row, token in enumerate(tokens):
        if token not in spoken:
            head[row * hidden : (row + 1) * hidden] = array("f", [0.0]) * hidden


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_safetensors(path: Path, tensors: Mapping[str, tuple[Shape, Floats]]) -> None:
    """Write the format by hand: a length, a JSON header, the tensors' bytes end to end."""
    ends = accumulate(len(data) * data.itemsize for _, data in tensors.values())
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    start = 0
    for (name, (shape, _)), end in zip(tensors.items(), ends, strict=True):
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # readers map the file: floats must lie aligned
    body = b"".join(data.tobytes() for _, data in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make a tiny model for tests and benchmarks.")
    parser.add_argument("name", choices=SPECS)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    make(chosen.name, chosen.folder)


if __name__ == "__main__":
    main()
