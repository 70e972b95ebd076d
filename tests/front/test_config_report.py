"""What the node tells of its configuration: all of it, and never a secret."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mlx_worker.api.admin.config_report import config_report
from mlx_worker.config.load import parse_config
from tests.front.asking import model

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from mlx_worker.config.schema import ModelConfig
    from tests.front.asking import Serve

SECRET = "sesame"


async def test_config_names_where_a_value_comes_from(serve: Serve) -> None:
    front = await serve(models=(model(max_queue=7),))
    answer = (await front.ask("/admin/config")).json
    assert answer["file"] is answer["key"] is None
    assert answer["config"]["models"][0]["max_queue"] == 7
    assert answer["config"]["server"]["idle_timeout"] == 75.0
    assert answer["from"]["models[0].max_queue"] == "program"
    assert "server.idle_timeout" not in answer["from"]


async def test_config_has_the_level_that_the_log_has_now(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    front = await serve()
    caplog.set_level(logging.DEBUG, "mlx_worker")
    answer = (await front.ask("/admin/config")).json
    assert answer["config"]["log"]["level"] == "debug"
    assert answer["from"]["log.level"] == "running"


async def test_config_needs_no_body_and_has_no_secret(serve: Serve) -> None:
    config: tuple[ModelConfig, ...] = (
        model(env={"TOKEN": SECRET}, system_prompt=f"never say {SECRET}"),
    )
    front = await serve(models=config)
    answer = await front.ask("/admin/config")
    assert SECRET.encode() not in answer.body
    assert answer.json["config"]["models"][0]["env"] == {"TOKEN": "(hidden)"}
    assert answer.json["hidden"] == ["models[0].system_prompt", "models[0].env.TOKEN"]


def test_config_report_of_a_whole_file(tmp_path: Path) -> None:
    text = """
        [[models]]
        id = "m"
        path = "p"
        cache_bytes = "1GiB"
        warm = ["a.txt"]
        [models.defaults]
        top_p = 0.5
        [server]
        models_dir = "models"
        [supervisor]
        memory_limit = 0.5
        [telemetry]
        endpoint = "https://collector.test/v1"
    """
    config = parse_config(text, source="text", folder=tmp_path)
    report = config_report(config, "laptop")
    shown: dict[str, Any] = report.config
    assert shown["models"][0]["cache_bytes"] == 1 << 30
    assert shown["models"][0]["warm"] == (str(tmp_path / "a.txt"),)
    assert shown["models"][0]["defaults"]["top_p"] == 0.5
    assert shown["server"]["models_dir"] == str(tmp_path / "models")
    assert shown["supervisor"]["memory_limit"] == 0.5
    assert shown["telemetry"]["endpoint"] == "https://collector.test/v1"
    assert report.hidden == []
    assert {"models[0].defaults.top_p", "server.models_dir", "models[0].id"} <= set(report.sources)
    assert report.key == "laptop"
