"""The audit fails on what is known, and says what it could not look up; with a real service."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from recipes import audit


class Service(BaseHTTPRequestHandler):
    """As api.osv.dev answers; it knows one vulnerability."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        package = asked["package"]
        hit = {"id": "GHSA-1", "aliases": ["CVE-1"], "affected": [{"package": package}]}
        down = package["name"] == "down"
        self.send_response(503 if down else 200)
        self.end_headers()
        if not down:
            known = {"vulns": [hit]} if package["name"] == "leaky" else {}
            self.wfile.write(json.dumps(known).encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def service() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()


def test_the_audit_tells_what_is_known_from_what_is_not(service, tmp_path, monkeypatch, capsys):
    pins = tmp_path / "pins.txt"

    def outcome(content: str, url: str = service) -> tuple[int, str]:
        pins.write_text(content)
        return audit.audit(str(pins), url), capsys.readouterr().out

    assert outcome("sound==1\n") == (0, "1 packages audited, 0 known vulnerabilities\n")
    code, shown = outcome("sound==1\nleaky==2\n")
    assert (code, shown.splitlines()[0]) == (1, "leaky 2: CVE-1, fixed by nothing yet")
    assert outcome("down==1\n")[1].startswith("not audited: ")
    code, shown = outcome("leaky==2\n", "http://127.0.0.1:1/")
    assert (code, shown[:13]) == (0, "not audited: ")
    assert outcome("sound>=1\n")[0] == 2
    monkeypatch.setitem(audit.ACCEPTED, "GHSA-1", "a test")
    assert outcome("leaky==2\n")[0] == 0
