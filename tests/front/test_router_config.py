"""The list of nodes, read by those who are to read it."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.commands import command, run
from tests.front.asking import Serve, model

if TYPE_CHECKING:
    from pathlib import Path

NODES = ("http://10.0.0.5:8081/", "http://[fd00::6]:8081")


async def test_json_and_litellm_have_the_models_that_the_nodes_have(serve: Serve) -> None:
    front = await serve(models=(model("a", aliases=("x",)),))
    url = str(front.client.make_url("")).rstrip("/")
    (node,) = json.loads((await command("router-config", url)).said)["nodes"]
    assert node == {"id": url.removeprefix("http://"), "url": url, "models": ["a", "x"]}
    listed = (await command("router-config", url, "--for", "litellm")).said
    assert 'model: "openai/a"' in listed
    assert listed.count(f'api_base: "{url}/v1"') == 2


def test_the_cluster_router_finds_the_nodes_where_it_looks() -> None:
    file = json.loads(run("router-config", "--for", "cluster", *NODES).said)
    assert file["discovery"] == {
        "mode": "static",
        "nodes": [
            {"id": "10.0.0.5:8081", "url": "http://10.0.0.5:8081"},
            {"id": "[fd00::6]:8081", "url": "http://[fd00::6]:8081"},
        ],
    }
    assert file["routing"]["strategy"] == "cache-aware"
    named = run("router-config", "--for", "cluster", "10.0.0.5:8081", NODES[1])
    assert json.loads(named.said) == file, "a node may be named without a scheme"


def checked(*command_: str | Path) -> None:
    done = subprocess.run(
        [*map(str, command_)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_haproxy_takes_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    for scheme in ("http", "https"):
        nodes = [url.replace("http", scheme) for url in NODES]
        file.write_text(run("router-config", "--for", "haproxy", *nodes).said)
        checked("haproxy", "-c", "-f", file)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "nodes.conf").write_text(run("router-config", "--for", "nginx", *NODES).said)
    paths = "\n".join(
        f"{kind}_temp_path {tmp_path}/{kind};"
        for kind in ("proxy", "client_body", "fastcgi", "uwsgi", "scgi")
    )
    main = tmp_path / "nginx.conf"
    main.write_text(
        f"events {{}}\npid {tmp_path}/pid;\nerror_log stderr;\n"
        f"http {{\naccess_log off;\n{paths}\ninclude {tmp_path}/nodes.conf;\n}}\n"
    )
    checked("nginx", "-t", "-e", "stderr", "-c", main)


def test_every_node_is_in_the_list_of_a_proxy() -> None:
    for router in ("nginx", "haproxy"):
        said = run("router-config", "--for", router, *NODES).said
        assert "10.0.0.5:8081" in said
        assert "[fd00::6]:8081" in said


@pytest.mark.parametrize("nodes", [("http://a:1", "https://b:1"), ("ftp://a",)])
def test_what_no_proxy_can_have_is_wrong_usage(nodes: tuple[str, ...]) -> None:
    ran = run("router-config", "--for", "nginx", *nodes)
    assert ran.code == 2
    assert "http" in ran.said
