"""A store whose contents are a value."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Op:
    """One operation on the store."""

    name: str
    path: str
    data: bytes = b""

    def __str__(self) -> str:
        return f"{self.name} {self.path}"

    @property
    def changes(self) -> bool:
        return self.name in ("create", "replace", "delete")


class World:
    """What the store holds. Equal contents are one value, so that it can be a state."""

    _known: dict[frozenset[tuple[str, bytes]], "World"] = {}  # noqa: RUF012

    def __init__(self, files: dict[str, bytes]):
        self.files = files

    @classmethod
    def of(cls, files: dict[str, bytes]) -> "World":
        key = frozenset(files.items())
        if key not in cls._known:
            cls._known[key] = cls(files)
        return cls._known[key]

    def do(self, op: Op) -> tuple["World", Any]:
        """The store after an operation, and the answer or the error."""
        files = dict(self.files)
        answer = do(files, op)
        return (World.of(files) if op.changes else self), answer


def do(files: dict[str, bytes], op: Op) -> Any:
    match op.name:
        case "create" if op.path in files:
            return FileExistsError
        case "create" | "replace":
            files[op.path] = op.data
        case "delete":
            files.pop(op.path, None)
        case "read":
            return files.get(op.path, FileNotFoundError)
        case "names":
            below = [p[len(op.path) + 1 :] for p in files if p.startswith(op.path + "/")]
            return tuple(sorted(name for name in below if "/" not in name))
    return None


class Store:
    """The store's face to the code under test; `answer` performs an operation."""

    protocol, is_local, creates_conditionally = "model", False, True

    def __init__(self, answer: Callable[[Op], Any]):
        self._answer = answer

    def _ask(self, name: str, path: str, data: bytes = b"") -> Any:
        answer = self._answer(Op(name, path, data))
        if isinstance(answer, type):
            raise answer(path)
        return answer

    def create(self, path: str, data: bytes) -> None:
        self._ask("create", path, data)

    def replace(self, path: str, data: bytes) -> None:
        self._ask("replace", path, data)

    def delete(self, path: str) -> None:
        self._ask("delete", path)

    def read(self, path: str) -> bytes:
        return bytes(self._ask("read", path))

    def open(self, path: str) -> io.BytesIO:
        return io.BytesIO(self._ask("read", path))

    def names(self, folder: str) -> list[str]:
        return list(self._ask("names", folder))
