"""An HTTP proxy in front of a store that fails now and then, as stores and networks do."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KINDS = ("503", "reset", "cut", "lost", "slow")


@contextmanager
def failing(target: str, share: float, seed: int) -> Iterator[tuple[str, Counter[str]]]:
    """Forwards to a URL; yields the proxy's own URL and what it has done so far.

    Of the requests a share gets, in a seeded order: 503, a reset connection before anything was
    done or after half of the body was sent, a lost reply after it was done, or an answer two
    seconds late.
    """
    rng, lock, done = random.Random(seed), threading.Lock(), Counter[str]()
    where = urlsplit(target).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            with lock:
                fault = rng.choice(KINDS) if rng.random() < share else ""
                done[fault or "well"] += 1
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if fault == "503":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "reset":
                self.close_connection = True
                self.connection.close()
                return
            if fault == "slow":
                time.sleep(2)
            connection = http.client.HTTPConnection(where, timeout=60)
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)  # Host, too: it is signed
            if fault == "cut":
                connection.endheaders(body[: len(body) // 2])
                connection.close()
                self.close_connection = True
                self.connection.close()
                return
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if fault == "lost":
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                    self.send_header(name, value)
            if answer.getheader("Content-Length") is None:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

        def log_message(self, *args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that did not wait for its answer is nothing to tell of."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", done
    finally:
        server.shutdown()
        server.server_close()
