"""`[[hosts]]` and the models that name them: what a file may say, and the errors about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_worker.config.host_checks import hosts_of
from mlx_worker.config.load import parse_config
from mlx_worker.config.problems import find_problems
from mlx_worker.errors import ConfigError

STUDIO2 = '[[hosts]]\nname = "studio2"\naddress = "10.0.0.2"\nrun = ["ssh", "studio2"]\n'
MODEL = '[[models]]\nid = "big"\npath = "big"\n'


def read(text: str) -> None:
    parse_config(text, source="f.toml", folder=Path("/"))


def test_hosts_of_a_model_are_in_the_order_of_its_ranks() -> None:
    text = f'{MODEL}hosts = ["here", "studio2"]\nsplit = "pipeline"\n{STUDIO2}'
    config = parse_config(text, source="f.toml", folder=Path("/"))
    here, there = hosts_of(config, config.models[0])
    assert (here.name, here.address, here.is_here) == ("here", "", True)
    assert (there.name, there.address, there.is_here) == ("studio2", "10.0.0.2", False)
    assert config.models[0].rank_count == 2


@pytest.mark.parametrize(
    ("model", "hosts", "key", "problem"),
    [
        ('hosts = ["here", "studio9"]', STUDIO2, "models[0].hosts", "'studio9' is no host; hosts"),
        ('hosts = ["here"]', STUDIO2, "models[0].hosts", "'here' alone"),
        ('hosts = ["here", "here"]', STUDIO2, "models[0].hosts", "named twice"),
        ('hosts = ["studio2", "here"]', STUDIO2, "models[0].hosts", "not 'studio2'"),
        (
            'hosts = ["here", "studio2"]\nranks = 3',
            STUDIO2,
            "models[0].ranks",
            "3 processes of this machine, and hosts names 2 hosts",
        ),
        ('transport = "jaccl"', "", "models[0].transport", "needs models[0].hosts"),
        (
            'hosts = ["here", "studio2"]\ntransport = "jaccl"',
            STUDIO2 + 'rdma = { here = "rdma_en5" }\n',
            "models[0].transport",
            "rdma of host 'here' to name a device towards 'studio2'",
        ),
        ("", STUDIO2 + STUDIO2, "hosts[1].name", "already the name at hosts[0].name"),
        ("", STUDIO2.replace("10.0.0.2", "fe80::1"), "hosts[0].address", "no IPv4 address"),
        ("", STUDIO2.replace("10.0.0.2", "0.0.0.0"), "hosts[0].address", "not the address of one"),
        ("", STUDIO2.replace('name = "studio2"', 'name = "here"'), "hosts[0].run", "no command"),
        ("", STUDIO2.replace('"ssh"', '""'), "hosts[0].run[0]", "'' is no word"),
        (
            "",
            '[[hosts]]\nname = "here"\naddress = "10.0.0.1"\nmemory_limit = 0.5\n',
            "hosts[0].memory_limit",
            "supervisor.memory_limit",
        ),
        (
            "",
            '[[hosts]]\nname = "here"\naddress = "10.0.0.1"\nmodels_dir = "/m"\n',
            "hosts[0].models_dir",
            "server.models_dir",
        ),
        ("", STUDIO2 + "port = 1\n", "hosts[0].port", "unknown key"),
    ],
)
def test_contradiction_about_hosts_is_an_error(
    model: str, hosts: str, key: str, problem: str, tmp_path: Path
) -> None:
    text = f"{MODEL}{model}\n{hosts}"
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert caught.value.param == key
    assert problem in str(caught.value)
    file = tmp_path / "f.toml"
    file.write_text(text)
    assert [found.param for found in find_problems(file).problems] == [key]


def test_broken_host_does_not_make_its_name_unknown(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    broken = STUDIO2.replace('name = "studio2"', "name = 2")
    file.write_text(f'{MODEL}hosts = ["here", "studio2"]\n{broken}')
    assert [found.param for found in find_problems(file).problems] == ["hosts[0].name"]


def test_hosts_that_are_no_list_are_one_problem(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text(f"hosts = 3\n{MODEL}")
    assert [found.param for found in find_problems(file).problems] == ["hosts"]
