"""A peer over a blocking socket, which does TLS in memory and puts into a segment exactly what it is told to."""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import suppress
from typing import Any

PATIENCE = 10.0
"""Seconds for anything that a peer waits for."""


class Peer:
    """One end of TLS; `out` is what was made and not sent yet."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool = False) -> None:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.was_alerted = False
        """The other end has said that nothing more comes."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        name = None if server_side else "127.0.0.1"
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side, server_hostname=name)

    def say_hello(self) -> None:
        """Begin the TLS handshake as a client, and read nothing yet."""
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.flush()

    def do_handshake(self, *, keep_last: bool = False) -> None:
        """Do the TLS handshake; its last flight may wait for what is to be in one segment with it."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                assert self._read_some(), "the other end left within the TLS handshake"
            else:
                break
        if not keep_last:
            self.flush()

    def write(self, data: bytes) -> None:
        """Encrypt `data`."""
        self._tls.write(data)

    def close_notify(self) -> None:
        """Say that nothing more comes."""
        with suppress(ssl.SSLWantReadError, ssl.SSLSyscallError):
            self._tls.unwrap()

    def flush(self) -> None:
        """Send all in one piece."""
        self.sock.sendall(self._outgoing.read())

    def read(self) -> bytes:
        """Return what the other end has sent, nothing at its end, of whatever kind."""
        while True:
            try:
                data = self._tls.read(64 * 1024)
                self.was_alerted = not data
                return data
            except ssl.SSLWantReadError:
                try:
                    if not self._read_some():
                        return b""
                except ConnectionError:
                    return b""
            except ssl.SSLError:
                return b""

    def read_to_end(self) -> bytes:
        data = b""
        while more := self.read():
            data += more
        return data

    def fin(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _read_some(self) -> bytes:
        data = self.sock.recv(64 * 1024)
        self._incoming.write(data)
        return data


def dial(server: Any, context: ssl.SSLContext) -> Peer:
    """Return a client of ours, before TLS."""
    return Peer(socket.create_connection(server.sockets[0].getsockname()[:2], timeout=PATIENCE), context)


def has_ended(sock: socket.socket) -> bool:
    """Tell whether the other end has left, without waiting for it."""
    sock.setblocking(False)
    try:
        while sock.recv(64 * 1024):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
