"""A proxy in front of the S3 server that makes some requests go wrong, as real stores and networks do."""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Fault:
    """The faults, and how often each happens.

    Attributes:
        method: the HTTP method that it meets.
        kind: "503", "409", "403" (expired credentials) and "denied" (no permission) answer so without asking the
            server; "lost" hangs up after the server has acted; "truncated" breaks the body off; "flipped" changes a
            bit of the body.
        times: how many requests it meets; the others pass.
        where: part of the URLs that it meets.
    """

    method: str
    kind: str
    times: int
    where: str = ""


ANSWERS = {
    "503": (503, "SlowDown"),
    "409": (409, "ConditionalRequestConflict"),
    "403": (403, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
}


@dataclass
class FaultProxy:
    """A running proxy; `faults` may be changed while it runs."""

    endpoint: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, method: str, url: str) -> str | None:
        with self.lock:
            self.requests.append(method)
            for fault in self.faults:
                if fault.method == method and fault.times > 0 and fault.where in url:
                    fault.times -= 1
                    return fault.kind
        return None


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Runs a proxy on a free loopback port."""
    proxy = FaultProxy()
    host = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def relay(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = proxy.next_fault(self.command, self.path)
            if kind in ANSWERS:
                self.refuse(*ANSWERS[kind])
                return
            connection = http.client.HTTPConnection(host, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if kind == "lost":
                self.close_connection = True
                self.connection.close()
                return
            if kind == "flipped":
                data = data[:-1] + bytes([data[-1] ^ 1])
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP:
                    self.send_header(name, value)
            if "content-length" not in {name.lower() for name, _ in answer.getheaders()}:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if kind == "truncated" else data)
            if kind == "truncated":
                self.close_connection = True

        def refuse(self, status: int, code: str) -> None:
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/xml")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = relay  # noqa: N815 (the base class names them)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
