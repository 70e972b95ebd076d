"""A short name for weights and versions."""

import re

from mlx_worker.config import ModelConfig
from mlx_worker.supervisor.child import Facts
from mlx_worker.supervisor.fingerprint import fingerprint, prompting
from mlx_worker.wire import messages as m


def told(weights: str, **versions: str) -> Facts:
    return Facts(loaded=m.Loaded(4096, 1, weights=weights), versions=versions)


def test_it_is_the_same_for_the_same_weights_and_versions_in_any_order() -> None:
    one = fingerprint(told("ab", mlx="1", mlx_lm="2"))
    assert one == fingerprint(told("ab", mlx_lm="2", mlx="1"))
    assert re.fullmatch(r"fp_[0-9a-f]{12}", one)


def test_it_is_another_for_other_weights_or_versions() -> None:
    names = {
        fingerprint(told("ab", mlx="1")),
        fingerprint(told("ac", mlx="1")),
        fingerprint(told("ab", mlx="2")),
        fingerprint(told("ab", mlx="1", mlx_lm="1")),
        fingerprint(Facts()),
    }
    assert len(names) == 5


def test_it_is_another_where_the_configuration_adds_to_prompts() -> None:
    models = [
        ModelConfig(id="a", path="p"),
        ModelConfig(id="a", path="p", system_prompt="x"),
        ModelConfig(id="a", path="p", chat_template_kwargs={"x": 1}),
    ]
    assert len({fingerprint(told("ab"), prompting(it)) for it in models}) == 3
    assert fingerprint(told("ab"), prompting(models[0])) == fingerprint(told("ab"))
