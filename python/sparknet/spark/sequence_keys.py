"""The keys of SequenceFiles: what says a record's name and label.

CaffeOnSpark's tools write Java's serialised form of a Scala tuple: (id, label) for image files, and (id, label,
channels, height, width, encoded) for raw pixels. Other files have the label as text or as a number, or "id label".
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

_MAGIC = b"\xac\xed\x00\x05"
#: Java Object Serialization Stream Protocol, chapter 6.4.
_NULL, _REFERENCE, _CLASS, _OBJECT, _STRING, _END = 0x70, 0x71, 0x72, 0x73, 0x74, 0x78
_FIRST_HANDLE = 0x7E0000
_PRIMITIVES = {"B": ">b", "C": ">H", "D": ">d", "F": ">f", "I": ">i", "J": ">q", "S": ">h", "Z": ">?"}


class BadKeyError(ValueError):
    """A key that says no label."""


@dataclass(frozen=True)
class Key:
    """What a key says; `shape` is (c, h, w) where the value is raw pixels of that shape."""

    id: str
    label: float
    shape: tuple[int, int, int] | None = None


def parse(key: Any) -> Key:
    """Reads a key as PySpark hands it over: str of Text, int or float of numbers, bytes of BytesWritable."""
    if isinstance(key, bytes | bytearray):
        return _of_tuple(bytes(key))
    if isinstance(key, int | float):
        return Key(str(key), float(key))
    found = re.fullmatch(r"(?:(.*\S)[\s,]+)?(\S+)", str(key).strip())
    try:
        if found is None:
            raise ValueError
        return Key(found[1] or str(key).strip(), float(found[2]))
    except ValueError:
        raise BadKeyError(
            f"the key {str(key)!r} of a SequenceFile has no label: keys are a label, or a name and a label"
        ) from None


def _of_tuple(key: bytes) -> Key:
    try:
        values = _Stream(key).read_tuple()
        identity, label, *about = values
        shape = None
        if about:
            channels, height, width, is_encoded = about
            shape = None if is_encoded else (int(channels), int(height), int(width))
        return Key(str(identity), float(label), shape)
    except (ValueError, IndexError, TypeError, KeyError, struct.error, RecursionError):
        raise BadKeyError(
            f"a key of a SequenceFile, {key[:40]!r}, is no (id, label) as CaffeOnSpark writes them: write keys as "
            "text, a label or a name and a label"
        ) from None


class _Stream:
    """Java's serialised objects, as far as tuples of strings, boxed numbers and booleans need it."""

    def __init__(self, content: bytes) -> None:
        if not content.startswith(_MAGIC):
            raise ValueError("this is no serialised Java object")
        self._content = content
        self._at = len(_MAGIC)
        self._handles: list[Any] = []

    def read_tuple(self) -> list[Any]:
        """The fields of a Tuple2, a Tuple6 or a Pair, in order."""
        fields = self._object()
        if not isinstance(fields, dict) or len(fields) not in (2, 6):
            raise ValueError("this is no pair")
        return [fields[name] for name in sorted(fields)]

    def _take(self, form: str) -> Any:
        size = struct.calcsize(form)
        (value,) = struct.unpack_from(form, self._content, self._at)
        self._at += size
        return value

    def _text(self) -> str:
        length = self._take(">H")
        self._at += length
        return self._content[self._at - length : self._at].decode()

    def _handle(self) -> Any:
        return self._handles[self._take(">I") - _FIRST_HANDLE]

    def _object(self) -> Any:
        """A string, null, or an object: its only primitive where it is a box, else its fields by name."""
        kind = self._take(">B")
        if kind == _NULL:
            return None
        if kind == _REFERENCE:
            return self._handle()
        if kind == _STRING:
            place = len(self._handles)
            self._handles.append(None)
            self._handles[place] = self._text()
            return self._handles[place]
        if kind != _OBJECT:
            raise ValueError(f"there is an unknown part, {kind:#x}")
        classes = self._class()
        fields: dict[str, Any] = {}
        place = len(self._handles)
        self._handles.append(fields)
        # Fields of a superclass come first.
        for _, declared in reversed(classes):
            for code, name in declared:
                fields[name] = self._take(_PRIMITIVES[code]) if code in _PRIMITIVES else self._object()
        if classes[0][0].startswith("java.lang."):
            self._handles[place] = fields["value"]
            return fields["value"]
        return fields

    def _class(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """A class and its superclasses: names, and types and names of fields."""
        kind = self._take(">B")
        if kind == _NULL:
            return []
        if kind == _REFERENCE:
            found: list[tuple[str, list[tuple[str, str]]]] = self._handle()
            return found
        if kind != _CLASS:
            raise ValueError(f"there is an unknown class, {kind:#x}")
        name = self._text()
        self._at += 8  # Its version.
        place = len(self._handles)
        self._handles.append(None)
        self._at += 1  # Flags: whether it writes itself, which none of these does.
        declared = []
        for _ in range(self._take(">H")):
            code, field = chr(self._take(">B")), self._text()
            if code not in _PRIMITIVES:
                self._object()  # The type's name.
            declared.append((code, field))
        if self._take(">B") != _END:
            raise ValueError("a class has notes that are not known here")
        classes = [(name, declared), *self._class()]
        self._handles[place] = classes
        return classes
