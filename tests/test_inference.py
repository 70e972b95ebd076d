"""The seed API of inference, in a plain Python process, against mlx_lm itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import mlx_lm
import pytest
from mlx_lm.tokenizer_utils import NaiveStreamingDetokenizer
from msgspec import structs

from mlx_worker import inference
from mlx_worker.engine.generation_settings import chat_request
from mlx_worker.errors import InferenceError, InvalidRequest, ModelNotFoundError
from tests.forced_output import force_output
from tests.synthetic_models import (
    CALL,
    CALL_PARTS,
    CALLED,
    IM_END,
    THOUGHT,
    WORDS,
    make_caller,
)

if TYPE_CHECKING:
    from pathlib import Path

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def model(tiny: Path) -> tuple[Any, Any]:
    return inference.load_model(tiny)


def reference(model: tuple[Any, Any], messages: list[dict[str, str]], max_tokens: int) -> str:
    prompt = model[1].apply_chat_template(messages, add_generation_prompt=True)
    pieces = mlx_lm.stream_generate(*model, prompt, max_tokens=max_tokens)
    return "".join(piece.text for piece in pieces)


def test_a_model_is_loaded_once_per_path(tiny: Path, nano: Path) -> None:
    first = inference.load_model(str(tiny))
    other = inference.load_model(nano)
    assert inference.load_model(tiny) == first
    assert other[0] is not first[0]


def test_an_unknown_path_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="Model not found") as missing:
        inference.load_model(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(missing.value)
    assert isinstance(missing.value, InferenceError)


def test_a_broken_model_is_an_inference_error_with_cause_and_path(
    tiny: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"hidden_size": 128}))
    with pytest.raises(InferenceError, match="broken") as failed:
        inference.load_model(broken)
    assert failed.value.__cause__ is not None
    assert not isinstance(failed.value, ModelNotFoundError)


def test_config_overrides_what_the_folder_says(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "theta"
    shutil.copytree(tiny, copy)
    model, _ = inference.load_model(copy, {"rope_theta": 12345.0})
    assert model.args.rope_theta == 12345.0


def test_generation_is_mlx_lms(model: tuple[Any, Any]) -> None:
    pieces = list(inference.generate_stream(HELLO, max_tokens=40))
    assert len(pieces) > 20
    assert "".join(pieces) == reference(model, HELLO, 40)


def test_only_content_is_generated(tmp_path: Path) -> None:
    """A reader of plain text is not shown reasoning, and is shown a call that is none."""
    folder = make_caller(tmp_path / "caller")
    _, tokenizer = inference.load_model(folder)
    said = force_output(tokenizer, "!", THOUGHT, "?", CALL, CALL_PARTS[0], CALLED, ".", IM_END)
    bias = {int(token): value for token, value in said.pop("logit_bias").items()}
    pieces = inference.generate_stream(HELLO, path=folder, logit_bias=bias, **said)
    assert "".join(pieces) == f"?{CALL_PARTS[0]}."


def test_generation_is_lazy(model: tuple[Any, Any]) -> None:
    steps = inference.runtime().engine.decode_steps
    stream = inference.generate_stream(HELLO, max_tokens=40)
    assert inference.runtime().engine.decode_steps == steps
    next(stream)
    assert inference.runtime().engine.decode_steps - steps <= 2
    stream.close()
    assert inference.runtime().engine.active == 0


def test_an_exhausted_generator_stays_exhausted(model: tuple[Any, Any]) -> None:
    stream = inference.generate_stream(HELLO, max_tokens=3)
    list(stream)
    assert list(stream) == []


def test_no_messages_are_refused_before_anything(model: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="messages cannot be empty"):
        inference.generate_stream([])


def test_unknown_settings_are_refused(model: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match="temprature"):
        inference.generate_stream(HELLO, temprature=1.0)


def test_a_failure_in_the_middle_comes_after_the_pieces_before_it(model: tuple[Any, Any]) -> None:
    class Broken:
        """A tokenizer that cannot say what its tokens are after the first few."""

        def __init__(self, tokenizer: Any) -> None:
            self._inner = tokenizer
            self._left = iter(range(12))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __len__(self) -> int:
            return len(self._inner)

        @property
        def detokenizer(self) -> Any:
            return NaiveStreamingDetokenizer(self._inner)

        def decode(self, tokens: list[int]) -> str:
            if next(self._left, None) is None:
                raise RuntimeError("no more")
            return str(self._inner.decode(tokens))

    runtime = inference.Runtime(model[0], Broken(model[1]), 8192)
    pieces: list[str] = []
    with pytest.raises(InferenceError, match="no more") as failed:
        pieces.extend(inference.pieces(runtime, chat_request(HELLO, {"max_tokens": 40})))
    assert isinstance(failed.value.__cause__, RuntimeError)
    said = "".join(pieces).removeprefix(" ")
    assert said == reference(model, HELLO, 40)[: len(said)] != ""


def test_threads_share_one_engine_and_each_gets_its_own_answer(model: tuple[Any, Any]) -> None:
    prompts = [[{"role": "user", "content": f"{WORDS[i]} {WORDS[i + 7]}"}] for i in range(6)]
    answers: dict[int, str] = {}

    def generate(i: int) -> None:
        answers[i] = "".join(inference.generate_stream(prompts[i], max_tokens=30))

    threads = [threading.Thread(target=generate, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: reference(model, prompt, 30) for i, prompt in enumerate(prompts)}


def test_one_seed_is_one_answer(model: tuple[Any, Any]) -> None:
    first, second, other = (
        "".join(inference.generate_stream(HELLO, max_tokens=20, temperature=1.0, seed=seed))
        for seed in (3, 3, 4)
    )
    assert first == second != other


@pytest.mark.parametrize("text", ["", "Hello", "river and stone", "déjà vu 🙂", " \n "])
def test_tokens_are_counted_as_the_tokenizer_makes_them(model: tuple[Any, Any], text: str) -> None:
    expected = len(model[1].encode(text)) if text else 0
    assert inference.count_tokens(text) == expected


def test_the_model_meant_is_the_one_loaded_last(tiny: Path, nano: Path) -> None:
    inference.load_model(nano)
    assert inference.runtime() is inference.runtime(nano)
    inference.load_model(tiny)
    assert inference.runtime() is inference.runtime(tiny)


def run(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env
    )
    return done.stdout.strip()


@pytest.mark.full
@pytest.mark.process
def test_with_no_model_loaded_the_environment_names_it(tiny: Path) -> None:
    code = "from mlx_worker.inference import count_tokens; print(count_tokens('Hello'))"
    assert int(run(code, MLX_MODEL_PATH=str(tiny))) > 0


@pytest.mark.full
@pytest.mark.process
def test_a_program_that_generated_ends_in_peace(tiny: Path) -> None:
    code = (
        "from mlx_worker.inference import generate_stream\n"
        "messages = [{'role': 'user', 'content': 'Hello'}]\n"
        "print(''.join(generate_stream(messages, max_tokens=4)))"
    )
    for _ in range(5):
        assert run(code, MLX_MODEL_PATH=str(tiny))


@pytest.mark.process
def test_with_no_model_at_all_it_says_so() -> None:
    code = (
        "from mlx_worker import cache, inference\n"
        "for call in (lambda: inference.count_tokens('x'),"
        " lambda: list(inference.generate_stream([{'role': 'user', 'content': 'x'}])),"
        " lambda: cache.warm_cache('x')):\n"
        "    try: call()\n"
        "    except inference.ModelNotFoundError as error: print(error)\n"
    )
    assert run(code).count("MLX_MODEL_PATH is not set") == 3


# --- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            ("temperature", value)
            for value in (-1, -0.001, 2.001, 5, float("nan"), float("inf"), "1")
        ],
        *[("top_p", value) for value in (-0.5, 1.1, 2, float("nan"))],
        *[("top_k", value) for value in (-2, 1.5, 1 << 31)],
        *[("min_p", value) for value in (-0.1, 1.1)],
        *[("repetition_penalty", value) for value in (-1, 11)],
        *[(f"{name}_penalty", value) for name in ("presence", "frequency") for value in (-3, 2.5)],
        *[("max_tokens", value) for value in (0, -1, 1.5, True)],
        *[("stop", value) for value in ("word", [""], ["x"] * 17, [1])],
        *[("seed", value) for value in (1 << 63, "1")],
        *[("logit_bias", value) for value in ({1: 101}, {-1: 1}, [1])],
        ("template_kwargs", []),
    ],
)
def test_settings_have_the_limits_of_http(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as refused:
        inference.generate_stream(HELLO, **{name: value})
    assert isinstance(refused.value, InvalidRequest)


def test_what_callers_pass_along_is_tolerated_and_what_nobody_knows_is_not(
    model: tuple[Any, Any],
) -> None:
    along: dict[str, Any] = {"cache_prompt": True, "metadata": {}, "stream": True, "user": "me"}
    pieces = inference.generate_stream(HELLO, max_tokens=5, **along, temperature=None)
    assert "".join(pieces) == reference(model, HELLO, 5)
    with pytest.raises(TypeError, match="temprature"):
        inference.generate_stream(HELLO, temprature=1)


def test_a_request_that_is_refused_leaves_nothing_in_the_engine(tiny: Path) -> None:
    runtime = inference.runtime(tiny)
    asked = chat_request(HELLO, {})
    for max_tokens in (0, -1):
        with pytest.raises(InvalidRequest):
            list(runtime.generate(structs.replace(asked, max_tokens=max_tokens)))
        assert runtime.engine.active == 0
    assert not runtime.engine.has_prefill


def test_a_file_is_no_folder_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(InferenceError, match="is not a folder") as refused:
        inference.load_model(file)
    assert not isinstance(refused.value, ModelNotFoundError)
    assert "not found" not in str(refused.value)
