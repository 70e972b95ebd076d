"""Print what an open tab of the page costs, idle and at fifty events a second.

For contributors: `python -m tests.tools.page_cost [SECONDS]`. The events are changes of the log's
level. KiB/s are what the tab received; CPU is that of the tab's main thread, and of the node's
front process with and without the tab.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import psutil
from playwright.sync_api import Browser, sync_playwright

from tests.page.conftest import BROWSER
from tests.processes import RunningNode, running_node
from tests.synthetic_models import make_nano

RATES = (0, 50)


@contextmanager
def events(node: RunningNode, each_second: int) -> Iterator[None]:
    """Cause this number of events a second, at a steady rate."""
    over = threading.Event()

    def cause() -> None:
        due, number = time.monotonic(), 0
        while each_second and not over.wait(max(0.0, due - time.monotonic())):
            number += 1
            level = ("info", "warning")[number % 2]
            node.ask("/admin/logs/level", {"level": level}, method="PUT")
            due += 1 / each_second

    thread = threading.Thread(target=cause)
    thread.start()
    yield
    over.set()
    thread.join()


def cpu_share(process: psutil.Process, seconds: float, wait: Any) -> float:
    """Return the percentage of a core that a process takes over some seconds."""
    before = sum(process.cpu_times()[:2])
    wait(seconds)
    return 100 * (sum(process.cpu_times()[:2]) - before) / seconds


def tab_cost(browser: Browser, node: RunningNode, seconds: float) -> str:
    """Open a tab; return what it costs, once it has caught up."""
    with browser.new_context() as context:
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Network.enable")
        session.send("Performance.enable")
        received = 0

        def on_data(event: dict[str, Any]) -> None:
            nonlocal received
            received += event["dataLength"]

        def busy_seconds() -> float:
            metrics = session.send("Performance.getMetrics")["metrics"]
            return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")

        session.on("Network.dataReceived", on_data)
        page.goto(node.url + "/")
        page.wait_for_timeout(3000)
        received, before = 0, busy_seconds()
        wait = page.wait_for_timeout
        front = cpu_share(psutil.Process(node.process.pid), seconds, lambda s: wait(1000 * s))
        tab = 100 * (busy_seconds() - before) / seconds
        return f"{received / 1024 / seconds:.1f} KiB/s, tab {tab:.1f} %, front {front:.1f} %"


def main() -> None:
    """Print a line for each rate of events."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        nano = make_nano(folder / "nano")
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        with running_node(folder, {"nano": nano, "other": nano}) as node:
            node.wait_until_ready()
            front = psutil.Process(node.process.pid)
            for rate in RATES:
                with events(node, rate):
                    alone = cpu_share(front, seconds, time.sleep)
                    cost = tab_cost(browser, node, seconds)
                click.echo(f"{rate} events/s: {cost} (without a tab {alone:.1f} %)")
        browser.close()


if __name__ == "__main__":
    main()
