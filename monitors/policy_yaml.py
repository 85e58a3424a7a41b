"""YAML text -> plain values plus the line of every value, so that each problem can be pointed at.

The tree is built from parser events rather than by a constructor: anchors, aliases, tags,
duplicate keys and deep nesting are then refused where they stand, nothing is ever expanded or
instantiated, and the depth of the input never becomes depth of our stack.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from monitors.errors import PolicyError

MAX_BYTES = 256 * 1024
"""A policy file larger than this is refused unread."""

TOO_LARGE = f"the file is too large; allowed: at most {MAX_BYTES // 1024} KiB"

MAX_PROBLEMS = 100
"""More problems than this are counted, not listed."""

_MAX_DEPTH = 16

Path = tuple[str | int, ...]

# YAML 1.2 core schema (10.3.2), less the non-finite floats, which no key of a policy allows.
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_HINTS = {
    "'\\t'": "a tab stands where only spaces may; allowed: spaces",
    "mapping values are not": "a `:` where none may stand; check the indentation, or quote it",
    "incompatible YAML": "another version of YAML; allowed: 1.2",
}
"""What the scanner says, and what a person who writes no programs can do about it."""

_UNSAFE_IN_LINE = re.compile(r"[^\w.@%+~/-]+", re.ASCII)


@dataclass(slots=True, frozen=True)
class Document:
    """A parsed file: plain values, and the 1-based line of every path in them."""

    value: object
    lines: dict[Path, int]

    def line(self, path: Path) -> int:
        """The line of a path (its key's) or, where the file does not have it, of its parent."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def problem(file: str, line: int, path: Path, text: str) -> str:
    """One problem in one printable line: FILE:LINE: dotted.path: text."""
    dotted = ".".join(_UNSAFE_IN_LINE.sub("?", str(part))[:64] for part in path) or "(file)"
    parts = f"{file}:{line}: {dotted}: {' '.join(text.split())}"
    return "".join(char if char.isprintable() else "?" for char in parts)


def read_document(text: str, file: str) -> Document:
    """Parse one YAML document. Raises PolicyError: all problems of form, or the first of syntax."""
    builder = _Builder(file)
    try:
        if len(text.encode()) > MAX_BYTES:
            builder.stop(1, (), TOO_LARGE)
        for event in _events(text):
            builder.take(event)
    except PolicyError:
        raise
    except UnicodeEncodeError:
        builder.stop(1, (), "the text has lone surrogates; allowed: UTF-8")
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = str(error.problem or error.context or "unreadable")
        what = next((hint for said, hint in _HINTS.items() if said in what), what)
        builder.stop(mark.line + 1 if mark else 1, (), f"not valid YAML: {what}")
    except YAMLError as error:  # characters that no YAML may hold
        position = getattr(error, "position", None)
        line = text.count("\n", 0, position) + 1 if isinstance(position, int) else 1
        builder.stop(line, (), "not valid YAML: a control character; allowed: printable text")
    except Exception as error:  # noqa: BLE001  # the scanner lets e.g. chr()'s ValueError through
        builder.stop(builder.last_line, (), f"not valid YAML: {type(error).__name__}")
    if builder.problems:
        raise PolicyError(builder.problems)
    return Document(builder.root, builder.lines)


def _events(text: str) -> Iterator[Any]:
    return iter(YAML(typ="safe", pure=True).parse(text))


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    container: dict[str, Any] | list[Any]
    path: Path
    key: str | None = None
    key_line: int = 1
    skip: bool = False  # the value belongs to a duplicate key

    @property
    def wants_key(self) -> bool:
        return isinstance(self.container, dict) and self.key is None


@dataclass(slots=True)
class _Builder:
    file: str
    root: object = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    last_line: int = 1
    documents: int = 0
    _stack: list[_Open] = field(default_factory=list)

    def note(self, line: int, path: Path, text: str) -> None:
        """Remember a problem and go on; give up where the file has too many."""
        self.problems.append(problem(self.file, line, path, text))
        if len(self.problems) >= MAX_PROBLEMS:
            raise PolicyError(self.problems)

    def stop(self, line: int, path: Path, text: str) -> None:
        """Give up: nothing that follows can be trusted."""
        raise PolicyError([*self.problems, problem(self.file, line, path, text)])

    def take(self, event: Any) -> None:
        kind = type(event).__name__
        line = self.last_line = event.start_mark.line + 1
        path = self._path()
        if kind == "DocumentStartEvent":
            self.documents += 1
            if self.documents > 1:
                self.stop(line, (), "a second document; allowed: one policy per file")
            return
        if kind == "AliasEvent":
            self.stop(line, path, "an alias (`*name`); allowed: write the value out")
        if getattr(event, "anchor", None) is not None:
            self.note(line, path, "an anchor (`&name`); allowed: write the value out")
        if kind != "DocumentEndEvent" and getattr(event, "ctag", None) is not None:
            self.note(line, path, "a tag (`!name`); allowed: plain values")
        if kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._open({} if kind == "MappingStartEvent" else [], line, path)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._stack.pop()
        elif kind == "ScalarEvent":
            if self._stack and self._stack[-1].wants_key:
                self._key(event.value, line)
            else:
                value = _plain(event.value) if event.implicit[0] else event.value
                self._scalar(value, line, path)

    def _path(self) -> Path:
        if not self._stack:
            return ()
        top = self._stack[-1]
        if isinstance(top.container, list):
            return (*top.path, len(top.container))
        return top.path if top.key is None else (*top.path, top.key)

    def _open(self, container: dict[str, Any] | list[Any], line: int, path: Path) -> None:
        if self._stack and self._stack[-1].wants_key:
            self.stop(line, path, "a key that is a list or mapping; allowed: plain text")
        if len(self._stack) >= _MAX_DEPTH:
            self.stop(line, path, f"nested too deeply; allowed: {_MAX_DEPTH} levels")
        self._place(container, line, path)
        self._stack.append(_Open(container, path))

    def _key(self, key: str, line: int) -> None:
        top = self._stack[-1]
        if not _encodable(key):
            self.stop(line, top.path, "a key with lone surrogates; allowed: Unicode text")
        top.key, top.key_line, top.skip = key, line, key in top.container
        if top.skip:
            first = self.lines[(*top.path, key)]
            self.note(line, (*top.path, key), f"written twice, also in line {first}; allowed: once")

    def _scalar(self, value: object, line: int, path: Path) -> None:
        if value is None:
            line = self._stack[-1].key_line if path and isinstance(path[-1], str) else line
            self.note(line, path, "has no value; allowed: a value, or leave the key out")
        elif isinstance(value, str) and not _encodable(value):
            self.note(line, path, "text with lone surrogates; allowed: Unicode text")
        self._place(value, line, path)

    def _place(self, value: object, line: int, path: Path) -> None:
        """Put a value where the open container wants it; in a mapping it has its key's line."""
        if not self._stack:
            self.root, self.lines[()] = value, line
            return
        top = self._stack[-1]
        if isinstance(top.container, list):
            top.container.append(value)
        elif top.key is not None:
            line = top.key_line
            if not top.skip:
                top.container[top.key] = value
            top.key = None
        self.lines.setdefault(path, line)


def _plain(text: str) -> object:
    """The value of an unquoted scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
