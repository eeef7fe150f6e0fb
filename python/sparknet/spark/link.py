"""The connection between a driver and its workers: messages of JSON with bytes behind them, after a handshake.

Both ends prove that they know the job's token (HMAC-SHA256 over a nonce of each) before either reads anything else.
The token itself never goes over this connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

GREETING = b"sparknet-driver-1"
NONCE_BYTES = 32
HANDSHAKE_TIMEOUT_S = 10.0
MAX_HEADER_BYTES = 1 << 24
MAX_PAYLOAD_BYTES = 1 << 34


class LinkError(ConnectionError):
    """A connection that broke, or whose other end does not keep to the rules."""


def proof(token: str, role: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    """What only somebody who knows the token can say."""
    return hmac.new(bytes.fromhex(token), role + server_nonce + client_nonce, hashlib.sha256).digest()


def derived_token(token: str, purpose: str) -> str:
    """A token for another purpose, from which this one cannot be told."""
    return hmac.new(bytes.fromhex(token), purpose.encode(), hashlib.sha256).hexdigest()


class LinkTimeoutError(LinkError):
    """The other end said nothing for too long."""


class Link:
    """One end of a connection. Any thread may send; one thread receives."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._sending = threading.Lock()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def accept(self, token: str) -> None:
        """The driver's half of the handshake."""
        take = self._handshake()
        nonce = secrets.token_bytes(NONCE_BYTES)
        self.connection.sendall(GREETING + nonce)
        theirs = take(NONCE_BYTES)
        if not hmac.compare_digest(take(32), proof(token, b"worker", nonce, theirs)):
            raise LinkError("somebody who does not know the job's token connected")
        self.connection.sendall(proof(token, b"driver", nonce, theirs))

    def introduce(self, token: str) -> None:
        """The worker's half of the handshake."""
        take = self._handshake()
        if take(len(GREETING)) != GREETING:
            raise LinkError("what listens there is not the driver of a sparknet job")
        theirs = take(NONCE_BYTES)
        nonce = secrets.token_bytes(NONCE_BYTES)
        self.connection.sendall(nonce + proof(token, b"worker", theirs, nonce))
        if not hmac.compare_digest(take(32), proof(token, b"driver", theirs, nonce)):
            raise LinkError("the driver there is that of another job")

    def _handshake(self) -> Callable[[int], bytes]:
        """What takes so many bytes of the other end's, all of them before one deadline."""
        self.connection.settimeout(HANDSHAKE_TIMEOUT_S)
        give_up_at = time.monotonic() + HANDSHAKE_TIMEOUT_S
        return lambda count: self._receive_exactly(count, HANDSHAKE_TIMEOUT_S, give_up_at)

    def send(self, message: dict[str, Any], payloads: list[bytes] | None = None, timeout_s: float = 60.0) -> None:
        """Sends a message whole; `timeout_s` is how long the other end may not read on."""
        payloads = payloads or []
        header = json.dumps({**message, "sizes": [len(payload) for payload in payloads]}).encode()
        with self._sending:
            self.connection.settimeout(timeout_s)
            try:
                self.connection.sendall(struct.pack("!I", len(header)) + header)
                for payload in payloads:
                    self._send_all(payload)
            except OSError as error:
                raise LinkError(f"the connection broke: {error}") from error

    def receive(self, timeout_s: float | None = None) -> tuple[dict[str, Any], list[bytes]]:
        """The next message; `timeout_s` is how long the other end may say nothing, None for as long as it likes."""
        (length,) = struct.unpack("!I", self._receive_exactly(4, timeout_s))
        if length > MAX_HEADER_BYTES:
            raise LinkError(f"a message's header has {length} bytes: this is no sparknet job")
        try:
            message = json.loads(self._receive_exactly(length, timeout_s))
            sizes = [int(size) for size in message["sizes"]]
        except (ValueError, KeyError, TypeError) as error:
            raise LinkError(f"a message cannot be read: {error}") from error
        if any(size < 0 or size > MAX_PAYLOAD_BYTES for size in sizes):
            raise LinkError("a message says that it is larger than any may be")
        return message, [self._receive_exactly(size, timeout_s) for size in sizes]

    def close(self) -> None:
        """Ends the connection; the other end finds out."""
        with contextlib.suppress(OSError):  # It may be gone already.
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def _send_all(self, payload: bytes) -> None:
        # In pieces, because sendall's timeout is for all that it is given.
        view = memoryview(payload)
        for start in range(0, len(view), 1 << 22):
            self.connection.sendall(view[start : start + (1 << 22)])

    def _receive_exactly(self, count: int, timeout_s: float | None, give_up_at: float | None = None) -> bytes:
        data = bytearray()
        while len(data) < count:
            # The socket's own timeout is that of whoever sends.
            try:
                if give_up_at is not None:
                    timeout_s = max(0.0, give_up_at - time.monotonic())
                readable = select.poll()
                readable.register(self.connection, select.POLLIN)
                if not readable.poll(None if timeout_s is None else timeout_s * 1000):
                    raise LinkTimeoutError(f"the connection broke: nothing came for {timeout_s:.0f} s")
                piece = self.connection.recv(min(count - len(data), 1 << 22))
            except LinkTimeoutError:
                raise
            except (OSError, ValueError) as error:  # A socket that was closed has no number.
                raise LinkError(f"the connection broke: {error}") from error
            if not piece:
                raise LinkError("the connection was closed")
            data += piece
        return bytes(data)
