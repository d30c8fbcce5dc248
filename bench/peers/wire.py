"""As much of PostgreSQL's protocol as a writing client needs: start up without a password, run a statement, time out.

The standard library has no PostgreSQL driver, and libpq waits at least two seconds for a connection; clients that measure a
gap of half a second cannot. https://www.postgresql.org/docs/current/protocol.html
"""
import socket
import struct


class Refused(OSError):
    """The server answered with an error. An `OSError` like everything else that a client meets by trying again."""

    def __init__(self, code, message, ends_session=False):
        super().__init__(f"{code}: {message}")
        self.ends_session = ends_session


class Session:
    """One connection. `patience` bounds the connection and each answer; what is late ends the session."""

    def __init__(self, address, user, database, patience):
        if isinstance(address, int):
            self._socket = socket.create_connection(("127.0.0.1", address), timeout=patience)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(patience)
            self._socket.connect(str(address))
        self._buffer = b""
        try:
            settings = b"".join(
                text.encode() + b"\0" for text in ("user", user, "database", database, "application_name", "bench", "")
            )
            self._socket.sendall(struct.pack("!ii", len(settings) + 8, 196608) + settings)
            self._answer()
        except BaseException:
            self.close()
            raise

    def query(self, statement):
        """The rows of one statement, every value as text."""
        body = statement.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
        return self._answer()

    def close(self):
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _take(self, count):
        while len(self._buffer) < count:
            more = self._socket.recv(65536)
            if not more:
                raise ConnectionResetError("the server closed the connection")
            self._buffer += more
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _answer(self):
        rows, refused = [], None
        while True:
            kind, length = struct.unpack("!ci", self._take(5))
            body = self._take(length - 4)
            if kind == b"D":
                rows.append(_row(body))
            elif kind == b"E":
                refused = _refusal(body)
                if refused.ends_session:
                    raise refused
            elif kind == b"R" and struct.unpack("!i", body[:4])[0] != 0:
                raise Refused("28000", "the server asks for a password")
            elif kind == b"Z":
                if refused:
                    raise refused
                return rows


def _row(body):
    count, at, row = struct.unpack("!h", body[:2])[0], 2, []
    for _ in range(count):
        length = struct.unpack("!i", body[at : at + 4])[0]
        at += 4
        row.append(None if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    return row


def _refusal(body):
    fields = {field[:1]: field[1:].decode(errors="replace") for field in body.split(b"\0") if field}
    return Refused(fields.get(b"C", "?????"), fields.get(b"M", ""), fields.get(b"V") in ("FATAL", "PANIC"))
