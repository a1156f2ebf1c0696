"""A server of files on this machine, as well or as badly behaved as a test wants it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Behaviour:
    """What the server has, and how it fails."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    """Whether parts are sent when they are asked for."""
    stop_after: int | None = None
    """Bytes after which every answer breaks off."""
    sized: bool = True
    """Whether the size is told."""
    shift: int = 0
    """How much later than asked for a part starts."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Paths and the ranges that were asked for."""
    hold: threading.Event | None = None
    """What an answer waits for before its last byte."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        behaviour: Behaviour = self.server.behaviour  # type: ignore[attr-defined]
        asked = self.headers.get("Range")
        behaviour.requests.append((self.path, asked))
        data = behaviour.files.get(self.path.rpartition("/")[2])
        if data is None:
            self.send_error(404)
            return
        start = 0
        if asked and behaviour.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) + behaviour.shift  # type: ignore[index]
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if behaviour.sized:
            self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Connection", "close")
        self.end_headers()
        rest = data[start:]
        if behaviour.stop_after is not None:
            rest = rest[: behaviour.stop_after]
        if behaviour.hold is not None:
            self.wfile.write(rest[:-1])
            self.wfile.flush()
            behaviour.hold.wait(10)
            rest = rest[-1:]
        self.wfile.write(rest)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """The address of a server that lives within."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.behaviour = behaviour  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/models/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
