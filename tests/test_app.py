"""What the application makes of the configuration."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from mlx_worker.app import _sleep_assertion
from mlx_worker.config.load import parse_config
from tests.system.test_sleep_assertion import Mac

if TYPE_CHECKING:
    from mlx_worker.supervisor.node import Node


@pytest.mark.parametrize("has_work", [True, False])
@pytest.mark.parametrize(
    ("setting", "is_held_without_work", "is_held_with_work"),
    [
        ("", False, True),
        ('prevent_sleep = "while_working"', False, True),
        ('prevent_sleep = "always"', True, True),
        ('prevent_sleep = "never"', False, False),
    ],
)
async def test_sleep_is_prevented_as_the_configuration_says(
    setting: str, *, is_held_without_work: bool, is_held_with_work: bool, has_work: bool
) -> None:
    text = f'[supervisor]\n{setting}\n[[models]]\nid = "m"\npath = "m"\n'
    config = parse_config(text, source="a test", folder=Path("/nowhere"))
    mac, node = Mac(), cast("Node", SimpleNamespace(has_work=has_work))
    assertion = _sleep_assertion(config, node, platform="darwin", launch=mac.launch)
    await assertion.check()
    expected = is_held_with_work if has_work else is_held_without_work
    assert (assertion.pid is not None) == expected
