"""Servers of files over HTTP: the rows of each are right, or it is refused; none is guessed."""

import gzip
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertbatch import JobError
from bertbatch.storage.stores import connect

IDS = [str(i) for i in range(400)]
TEXTS = [f"row {i}" for i in range(400)]


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder in one of many ways."""

    how = "ranges"
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.reply(b"", len(self.content()))

    def content(self) -> bytes:
        return Path(self.translate_path(self.path)).read_bytes()

    def do_GET(self) -> None:
        data, asked = self.content(), self.headers.get("Range")
        if asked is None or self.how in ("whole", "says none", "no length", "compressing"):
            packs = self.how == "compressing" and "gzip" in self.headers.get("Accept-Encoding", "")
            packs = packs and asked is not None
            return self.reply(gzip.compress(data) if packs else data, None, packed=packs)
        first, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        if self.how == "too little":
            part = part[:-1]
        if self.how == "too much":
            part = data[first : last + 2]
        if self.how == "whole as a part":
            part = data
        self.reply(part, None, f"bytes {first}-{last}/{len(data)}")

    def reply(
        self, data: bytes, length: int | None, part: str | None = None, packed: bool = False
    ) -> None:
        self.send_response(206 if part else 200)
        if part and self.how != "whole as a part":
            self.send_header("Content-Range", part)
        if self.how == "says none":
            self.send_header("Accept-Ranges", "none")
        if packed:
            self.send_header("Content-Encoding", "gzip")
        if self.how == "no length":
            self.send_header("Transfer-Encoding", "chunked")
            data = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Serves the test's folder in a way; the address."""
    servers = []

    def start(how: str) -> str:
        handler = type("Handler", (Server,), {"how": how})

        def make(*args: Any) -> Server:
            return handler(*args, directory=str(tmp_path))

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), make)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def write(folder: Path, kind: str) -> str:
    table = "id,text\n" + "".join(f"{i},{text}\n" for i, text in zip(IDS, TEXTS, strict=True))
    if kind == "parquet":
        pq.write_table(pa.table({"id": IDS, "text": TEXTS}), folder / "a.parquet")
    elif kind == "csv":
        (folder / "a.csv").write_text(table)
    else:
        (folder / "a.csv.gz").write_bytes(gzip.compress(table.encode()))
    return f"a.{kind}"


HOW = ["ranges", "whole", "says none", "no length", "compressing", "too little", "too much"]


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("how", [*HOW, "whole as a part"])
def test_rows_are_right_or_the_server_is_refused(how, kind, serve, score, tmp_path):
    url = f"{serve(how)}/{write(tmp_path, kind)}"
    keys = {"input.carry": ["id"], "runtime.unit_rows": 100}
    try:
        result = score(url, tmp_path / "out", **keys)
    except JobError as error:
        said = str(error)
    else:
        said = "".join(result.failed_sources.values())
    if said:
        assert how != "ranges"
        assert any(w in said for w in ("range requests", "asked for", "how large"))
        return
    assert result.to_pandas()["id"].tolist() == IDS


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b""])
def test_no_store_is_believed_another_length(change, monkeypatch):
    store, path = connect("memory://lying/a.csv")
    store.replace(path, b"0123456789")
    real = type(store.fs).cat_file
    monkeypatch.setattr(
        type(store.fs), "cat_file", lambda self, *a, **k: change(real(self, *a, **k))
    )
    with pytest.raises(OSError, match="asked for 3 bytes from 2 on"):
        store.read(path, 2, 5)
    for small in (1 << 18, 1):  # read whole, and by ranges
        monkeypatch.setattr("bertbatch.storage.stores.SMALL", small)
        with pytest.raises(OSError, match="asked for"), store.open(path) as file:
            file.read()


def test_a_file_read_as_a_stream_is_the_file(monkeypatch):
    monkeypatch.setattr("bertbatch.storage.stores.BUFFER", 7)
    monkeypatch.setattr("bertbatch.storage.stores.SMALL", 0)
    store, path = connect("memory://stream/a")
    data = bytes(range(256)) * 3
    store.replace(path, data)
    with store.open(path) as file:
        assert file.read(5) + file.read(20) + file.read() == data
        assert file.read(1) == b""
        assert file.seek(-10, 2) == len(data) - 10
        assert file.read(100) == data[-10:]
        assert file.seek(300) == file.tell() == 300
        assert file.read(3) == data[300:303]
