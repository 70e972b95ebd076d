"""What others notice meanwhile: the worst latency of a node's health, the worst pause of a stream.

As a script, a process of its own: ``python onlooker.py URL``. Looks on until its input is closed,
then prints what was worst, in seconds, as JSON. Only the standard library is used.
"""

import http.client
import json
import sys
import threading
import time
from urllib.parse import urlsplit

PAUSE = 0.02
"""Seconds between two looks at the health."""

STREAM = {"messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": 200}
"""Again and again, so that a stream is nearly always under way."""


class Onlooker:
    """Two watchers of one node, each on a thread."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.health = self.gap = 0.0
        self.looks = self.pieces = 0
        self.over = threading.Event()

    def watch_health(self) -> None:
        """Ask again and again over one connection."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        while not self.over.wait(PAUSE):
            began = time.perf_counter()
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            self.health = max(self.health, time.perf_counter() - began)
            self.looks += 1

    def watch_streams(self) -> None:
        """Read one stream after another; what counts is the time between two pieces of one."""
        while not self.over.is_set():
            connection = http.client.HTTPConnection(self.address, timeout=60)
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(STREAM), headers)
            response = connection.getresponse()
            last = None
            for line in response:
                now = time.perf_counter()
                if line.startswith(b"data:"):
                    if last is not None:
                        self.gap = max(self.gap, now - last)
                    last = now
                    self.pieces += 1
            connection.close()


def main() -> None:
    """Look on, then say what was worst."""
    onlooker = Onlooker(urlsplit(sys.argv[1]).netloc)
    watchers = [
        threading.Thread(target=item) for item in (onlooker.watch_health, onlooker.watch_streams)
    ]
    for watcher in watchers:
        watcher.start()
    sys.stdin.read()
    onlooker.over.set()
    for watcher in watchers:
        watcher.join()
    seen = {name: getattr(onlooker, name) for name in ("health", "gap", "looks", "pieces")}
    print(json.dumps(seen))  # noqa: T201  (its answer)


if __name__ == "__main__":
    main()
