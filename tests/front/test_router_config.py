"""The list of nodes, read by those who are to read it."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from mlx_worker import __version__
from tests.commands import command, run
from tests.front.asking import Serve, model

if TYPE_CHECKING:
    from collections.abc import Mapping
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


async def test_a_router_finds_the_version_where_vllm_has_it(serve: Serve) -> None:
    front = await serve()
    for path in ("/version", "/v1/version"):
        answer = await front.ask(path)
        assert (answer.status, answer.json) == (200, {"version": __version__})


@pytest.mark.parametrize(
    ("router", "program"),
    [
        ("vllm-router", "vllm-router"),
        ("sglang-router", "python -m sglang_router.launch_router"),
        ("smg", "smg launch"),
    ],
)
def test_a_router_without_a_file_gets_its_command(router: str, program: str) -> None:
    said = run("router-config", "--for", router, "--listen", "127.0.0.1:9000", *NODES).said
    shebang, _, command_ = said.partition("\n")
    assert shebang == "#!/bin/sh"
    words = shlex.split(command_.replace("\\\n", " "))
    assert words[1:].count("--worker-urls") == 1
    assert words[:1] + words[1 : 1 + len(program.split())] == ["exec", *program.split()]
    options = dict(itertools.pairwise(words))
    assert (options["--host"], options["--port"]) == ("127.0.0.1", "9000")
    assert options["--health-check-endpoint"] == "/v1/cluster/health"
    for node in NODES:
        assert node.rstrip("/") in words


@pytest.mark.parametrize(
    ("listen", "line"),
    [
        ("9000", {"nginx": "listen 9000;", "haproxy": "bind :9000"}),
        ("10.0.0.9:80", {"nginx": "listen 10.0.0.9:80;", "haproxy": "bind 10.0.0.9:80"}),
        ("[::1]:80", {"nginx": "listen [::1]:80;", "haproxy": "bind [::1]:80"}),
    ],
)
def test_a_proxy_listens_where_it_is_told(listen: str, line: Mapping[str, str]) -> None:
    for router, expected in line.items():
        said = run("router-config", "--for", router, "--listen", listen, *NODES).said
        assert expected in said


def test_haproxy_checks_health_at_a_path_that_needs_no_key() -> None:
    assert "httpchk GET /health/ready\n" in run("router-config", "--for", "haproxy", *NODES).said


@pytest.mark.parametrize("listen", ["", "host", "host:", "0", "65536", "a:x"])
def test_a_port_that_is_none_is_wrong_usage(listen: str) -> None:
    ran = run("router-config", "--for", "nginx", "--listen", listen, *NODES)
    assert ran.code == 2
    assert "PORT" in ran.said


def test_every_node_is_in_the_list_of_a_proxy() -> None:
    for router in ("nginx", "haproxy", "vllm-router", "sglang-router", "smg"):
        said = run("router-config", "--for", router, *NODES).said
        assert "10.0.0.5:8081" in said
        assert "[fd00::6]:8081" in said


@pytest.mark.parametrize("nodes", [("http://a:1", "https://b:1"), ("ftp://a",)])
def test_what_no_proxy_can_have_is_wrong_usage(nodes: tuple[str, ...]) -> None:
    ran = run("router-config", "--for", "nginx", *nodes)
    assert ran.code == 2
    assert "http" in ran.said
