"""The made models keep the promises the other tests build on."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer

from tests.synthetic_models import IM_END, SPECS, VOCABULARY, WORDS, make

QUESTIONS = (
    "Hello",
    "Hello!",
    "hi",
    "What is the capital of France?",
    "What is the capital of Spain?",
    "Write a poem about rain",
    "Name three rivers.",
    "1+1",
)


DEFAULT = ("nano", "tiny")
"""What most tests use; the others are looked at in the full run."""


@pytest.fixture(
    params=[
        name if name in DEFAULT else pytest.param(name, marks=pytest.mark.full) for name in SPECS
    ]
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def prompt(tokenizer: Any, question: str) -> list[int]:
    messages = [{"role": "user", "content": question}]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True))


def greedy(model: Any, tokens: list[int], count: int) -> list[int]:
    return [int(token) for token, _ in generate_step(mx.array(tokens), model, max_tokens=count)]


def test_greedy_goes_on_in_plain_words_and_each_prompt_has_its_text(
    name: str, tmp_path: Path
) -> None:
    model, tokenizer = mlx_lm.load(str(make(name, tmp_path)))
    answers = [greedy(model, prompt(tokenizer, question), 48) for question in QUESTIONS]
    texts = [tokenizer.decode(answer) for answer in answers]
    assert len(set(texts)) == len(QUESTIONS)
    assert all(len(answer) == 48 for answer in answers)
    assert all(set(text.split()) <= set(WORDS) for text in texts)
    # No short loop: a token lost in one would leave the text as it was.
    assert all(len(set(answer[-24:])) >= 12 for answer in answers)


def test_the_continuation_of_a_cut_answer_is_the_answer(name: str, tmp_path: Path) -> None:
    model, tokenizer = mlx_lm.load(str(make(name, tmp_path)))
    start = prompt(tokenizer, "Tell me a story")
    whole = greedy(model, start, 48)
    assert greedy(model, start + whole[:20], 28) == whole[20:]


def test_the_tokenizer_is_byte_level_bpe_that_loses_nothing(tmp_path: Path) -> None:
    _, tokenizer = mlx_lm.load(str(make("nano", tmp_path)))
    text = 'the river, Grüße, 東京 🙂 {"a": 1.5}\n\t  end'
    tokens = tokenizer.encode(text)
    stream = tokenizer.detokenizer
    for token in tokens:
        stream.add_token(token)
    stream.finalize()
    assert tokenizer.decode(tokens) == stream.text == text
    assert isinstance(stream, BPEStreamingDetokenizer)
    assert len(tokenizer) == VOCABULARY
    assert tokenizer.eos_token_ids == {tokenizer.convert_tokens_to_ids(IM_END)}


def test_the_template_is_chatml_for_every_role(tmp_path: Path) -> None:
    _, tokenizer = mlx_lm.load(str(make("nano", tmp_path)))
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "t"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\nt<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_making_a_model_twice_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    once, again = make(name, tmp_path / "once"), make(name, tmp_path / "again")
    files = sorted(path.name for path in once.iterdir())
    assert files == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert all((once / file).read_bytes() == (again / file).read_bytes() for file in files)
