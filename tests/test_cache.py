"""The seed API of the prompt cache."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mlx_worker import cache, inference
from mlx_worker.cache import CacheManager
from mlx_worker.errors import CacheError, InferenceError, ModelNotFoundError
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SYSTEM = "You are a river. " + " ".join(WORDS[:40])


@pytest.fixture(autouse=True)
def loaded(tiny: Path) -> Iterator[None]:
    inference.load_model(tiny)
    cache.clear_cache()
    yield
    cache.clear_cache()


def test_warming_is_a_real_prefill(tiny: Path) -> None:
    engine = inference.runtime(tiny).engine
    before = time.time() * 1000
    state = cache.warm_cache(SYSTEM)
    assert state["tokens"] == engine.cache.facts.tokens > 40
    assert engine.cache.facts.nbytes >= state["tokens"] * 2 * 2 * 64 * 4  # k, v; layers; floats
    assert state["systemPromptHash"] == hashlib.sha256(SYSTEM.encode()).hexdigest()
    assert before <= state["lastUpdated"] <= time.time() * 1000


def test_what_was_warmed_is_hit(tiny: Path) -> None:
    tokens = cache.warm_cache(SYSTEM)["tokens"]
    runtime = inference.runtime(tiny)
    before = runtime.engine.prefilled_tokens
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hello"}]
    list(inference.generate_stream(messages, max_tokens=2))
    assert 0 < runtime.engine.prefilled_tokens - before < tokens


def test_the_state_is_a_fresh_dict_each_time() -> None:
    first = cache.get_cache_state()
    first["tokens"] = 99
    assert cache.get_cache_state()["tokens"] == 0


def test_clearing_is_idempotent() -> None:
    cache.warm_cache(SYSTEM)
    cache.clear_cache()
    cache.clear_cache()
    state = cache.get_cache_state()
    assert (state["tokens"], state["systemPromptHash"]) == (0, "")


def test_an_empty_prompt_is_no_tokens_and_has_a_hash_of_its_own() -> None:
    before = cache.warm_cache(SYSTEM)
    state = cache.warm_cache("")
    assert state == {
        "tokens": 0,
        "systemPromptHash": hashlib.sha256(b"").hexdigest(),
        "lastUpdated": state["lastUpdated"],
    }
    assert state["lastUpdated"] >= before["lastUpdated"]
    assert cache.get_cache_state() == state


def test_a_clear_is_a_moment_of_its_own() -> None:
    warmed = cache.warm_cache(SYSTEM)
    cache.clear_cache()
    assert cache.get_cache_state()["lastUpdated"] >= warmed["lastUpdated"] > 0


def test_the_state_that_is_returned_is_of_the_model_that_was_warmed(tiny: Path, nano: Path) -> None:
    inference.load_model(nano)
    state = cache.warm_cache(SYSTEM, path=tiny)
    assert state["systemPromptHash"] == hashlib.sha256(SYSTEM.encode()).hexdigest()


def test_a_model_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="Model not found"):
        cache.warm_cache(SYSTEM, path=tmp_path / "none")


def test_a_model_that_cannot_be_loaded_is_a_cache_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CacheError) as failed:
        cache.warm_cache(SYSTEM, path=tmp_path)
    assert str(tmp_path) in str(failed.value)
    assert isinstance(failed.value.__cause__, InferenceError)


def test_a_prompt_over_the_context_is_a_cache_error() -> None:
    with pytest.raises(CacheError, match="context length is 8192"):
        cache.warm_cache(" ".join(WORDS) * 60)


@pytest.mark.parametrize("prompt", ["", "Hello", "déjà vu 🙂"])
def test_the_hash_is_sha256_of_the_raw_prompt(prompt: str) -> None:
    assert cache.compute_prompt_hash(prompt) == hashlib.sha256(prompt.encode()).hexdigest()


def test_the_manager_is_one_and_the_same() -> None:
    manager = CacheManager()
    assert manager is CacheManager()
    assert manager.warm(SYSTEM) == manager.get_state() == cache.get_cache_state()
    manager.clear()
    assert manager.get_state()["tokens"] == 0


def test_threads_may_warm_read_and_clear_at_once() -> None:
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for _ in range(3):
                state = cache.warm_cache(f"You are {WORDS[i]}.")
                assert len(state["systemPromptHash"]) in (0, 64)
                if i == 0:
                    cache.clear_cache()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
