"""A write load that knows what was promised to it: the same as the lab's (`crates/lab/src/load.rs`), without TLS.

Four clients write one row after another to whichever server takes writes, and keep every commit that was *acknowledged*. An
attempt whose answer is lost is repeated as a row of its own, so a repetition always writes.
"""
import random
import threading
import time

import wire

CLIENTS = 4
PAUSE = 0.002
PATIENCE = 0.5
WARM_UP = 500
TABLE = (
    "create table writes (client int, sequence bigint, attempt int, written_at timestamptz not null"
    " default clock_timestamp(), primary key (client, sequence, attempt))"
)


class Load:
    """Running clients of the servers on these ports. An acknowledgement is (time heard, port, write)."""

    def __init__(self, ports):
        self._ports = ports
        self._acknowledged = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._clients = [threading.Thread(target=self._client, args=(n,), daemon=True) for n in range(CLIENTS)]
        for client in self._clients:
            client.start()

    def count(self):
        return len(self._acknowledged)

    def all_acknowledged_by(self, port, since):
        """True when every client has been acknowledged by the server on this port, after `since`."""
        clients = set()
        with self._lock:
            for at, where, (client, *_) in reversed(self._acknowledged):
                if at <= since:
                    break
                if where == port:
                    clients.add(client)
        return len(clients) == CLIENTS

    def stop(self):
        """Ends the clients. What was in flight was promised to nobody."""
        self._stopped.set()
        for client in self._clients:
            client.join()

    def gap(self, since):
        """The longest time in which no client at all was acknowledged, after `since`."""
        times = [at for at, _, _ in self._acknowledged]
        return max(after - before for before, after in zip(times, times[1:]) if after >= since)

    def lost(self, port):
        """Acknowledged writes that the server on this port does not have."""
        with wire.Session(port, "bench", "postgres", 30) as session:
            rows = session.query("select client, sequence, attempt from writes")
        held = {tuple(int(value) for value in row) for row in rows}
        return [write for _, _, write in self._acknowledged if write not in held]

    def _client(self, number):
        session, port = None, None
        sequence, attempt = 1, 1
        while not self._stopped.is_set():
            if session is None:
                session, port = self._session()
                continue
            try:
                session.query(f"insert into writes values ({number}, {sequence}, {attempt}) returning written_at")
            except OSError:
                session.close()
                session = None
                attempt += 1
                continue
            with self._lock:
                # Read under the lock: the record is in the order of its times.
                self._acknowledged.append((time.monotonic(), port, (number, sequence, attempt)))
            sequence, attempt = sequence + 1, 1
            time.sleep(PAUSE)

    def _session(self):
        """The first server that takes writes; nothing after one look at each."""
        for port in self._ports:
            try:
                session = wire.Session(port, "bench", "postgres", PATIENCE)
            except OSError:
                continue
            try:
                if session.query("show transaction_read_only") == [["off"]]:
                    return session, port
            except OSError:
                pass
            session.close()
        # Between 10 and 20 ms, different for each client, so that they do not all knock at once.
        time.sleep(random.uniform(0.01, 0.02))
        return None, None
