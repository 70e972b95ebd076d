"""A short name for weights and versions, and what is said where they differ."""

import re

from mlx_worker.config.schema import ModelConfig
from mlx_worker.supervisor.fingerprint import (
    Identity,
    identity_of,
    is_replaced,
    own_code,
    prompting,
    weights_changed,
)
from mlx_worker.supervisor.process.status import ChildStatus
from mlx_worker.wire.messages import Loaded


def told(weights: str, **versions: str) -> Identity:
    return identity_of(ChildStatus(loaded=Loaded(4096, 1, weights=weights), versions=versions))


def test_it_is_the_same_for_the_same_weights_and_versions_in_any_order() -> None:
    one = told("ab", mlx="1", mlx_lm="2")
    assert one == told("ab", mlx_lm="2", mlx="1")
    assert re.fullmatch(r"fp_[0-9a-f]{12}", one.fingerprint)


def test_it_is_another_for_other_weights_or_versions() -> None:
    identities = [
        told("ab", mlx="1"),
        told("ac", mlx="1"),
        told("ab", mlx="2"),
        told("ab", mlx="1", mlx_lm="1"),
        identity_of(ChildStatus()),
    ]
    assert len({identity.fingerprint for identity in identities}) == len(set(identities)) == 5


def test_the_error_names_what_changed_and_only_that() -> None:
    error = weights_changed("m", told("ab", mlx="1", lm="1"), told("ab", mlx="2", lm="1"))
    assert "(mlx: 1, now 2)" in error.message
    assert error.message.endswith("; send the request again")
    assert not error.resend


def test_a_process_that_tells_no_version_of_this_package_is_not_taken_for_a_newer_one() -> None:
    assert not is_replaced({"mlx": "1"})
    assert not is_replaced({"mlx-worker": own_code()})
    assert is_replaced({"mlx-worker": "0.0.1"})


def test_it_is_another_where_the_configuration_changes_prompts() -> None:
    models = [
        ModelConfig(id="a", path="p"),
        ModelConfig(id="a", path="p", system_prompt="x"),
        ModelConfig(id="a", path="p", chat_template_kwargs={"x": 1}),
        ModelConfig(id="a", path="p", drop_system_lines=()),
    ]
    names = [told("ab").with_prompts(prompting(model)) for model in models]
    assert len(set(names)) == 4
    assert names[0] == told("ab").fingerprint
