"""Files on the driver."""

from __future__ import annotations

import os
import tempfile


def text(given: str, what: str) -> tuple[str, str, str]:
    """A prototxt's text, its name for messages, and the folder that its paths begin in."""
    if "\n" in given or "{" in given or ":" in given and not os.path.exists(given):
        return given, f"the {what}", ""
    try:
        with open(given, encoding="utf-8") as file:
            return file.read(), given, os.path.dirname(given)
    except OSError as error:
        raise ValueError(
            f"{what} {given} cannot be read ({error.strerror}): name a file on the driver, or give its text"
        ) from error


def read(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): name a file on the driver") from error


def write_whole(path: str, content: bytes) -> None:
    """Writes a file whole or not at all."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror}): name a file in a folder that takes it") from error
