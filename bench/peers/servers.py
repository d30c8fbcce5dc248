"""PostgreSQL servers as every contestant has them: the machine's own tools, one configuration, a socket for questions."""
import pathlib
import shutil

import wire
from load import TABLE
from place import Trouble, wait_for

# As the lab's servers have it (`crates/lab/src/postgres/configuration.rs`). What a contestant leaves at PostgreSQL's default
# is not in here: `wal_retrieve_retry_interval` is a setting of its own.
SETTINGS = {
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "wal_keep_size": "64MB",
    "hot_standby": "on",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "wal_receiver_status_interval": "1s",
    "fsync": "on",
    # Segments left by a killed server go with its folder, not into /dev/shm for ever.
    "dynamic_shared_memory_type": "mmap",
}
RETRY_AS_OURS = {"wal_retrieve_retry_interval": "100ms"}
# The bench's clients may write into one table; everybody else comes through a socket in a folder that is closed to others.
CLIENTS_MAY = "host postgres bench 127.0.0.1/32 trust"


def binaries():
    """The folder of the newest server of this machine, from version 13."""
    found = []
    for program in pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"):
        version = program.parent.parent.name
        if version.isdigit() and int(version) >= 13:
            found.append((int(version), program.parent))
    if found:
        return max(found)[1]
    on_path = shutil.which("postgres")
    return pathlib.Path(on_path).resolve().parent if on_path else None


def packaged(name):
    """The Debian package of an extension for this server."""
    version = binaries().parent.name if binaries() else "15"
    return f"postgresql-{version}-{name}"


def configuration(port, sockets, **more):
    settings = {**SETTINGS, "listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": str(sockets), **more}
    return "".join(f"{name} = '{value}'\n" for name, value in settings.items())


class Node:
    """One server: where it listens and where its data is. `agent` is the process that minds it, if there is one."""

    def __init__(self, place, name):
        self.name = name
        self.port = place.port()
        self.data = place.folder / name
        self.sockets = place.sockets
        self.agent = None

    def ask(self, statement, database="postgres", user="postgres"):
        """Asks the server through its socket, as its superuser."""
        with wire.Session(self.sockets / f".s.PGSQL.{self.port}", user, database, 30) as session:
            return session.query(statement)

    def takes_writes(self):
        return self.ask("select pg_is_in_recovery()") == [["f"]]

    def feeds_a_standby(self):
        """True when a standby streams from here and has replayed everything."""
        return self.ask(
            "select count(*) from pg_stat_replication where state = 'streaming' and replay_lsn >= pg_current_wal_flush_lsn()"
        ) != [["0"]]

    def make_table(self):
        """The clients' role and table."""
        self.ask("create role bench login")
        self.ask(TABLE)
        self.ask("grant select, insert on writes to bench")


def wait_for_pair(primary, seconds=120):
    """Returns when the primary takes writes and its standby has everything."""
    wait_for(f"{primary.name} takes writes", primary.takes_writes, seconds)
    wait_for(f"a standby streams from {primary.name}", primary.feeds_a_standby, seconds)


class Contestant:
    """What the bench asks of everybody. `place`, `primary` and `standby` are there after `start`."""

    name = ""
    settings = "default"
    # Programs, or files beside the server's programs, that show that its Debian packages are there.
    programs = ()
    libraries = ()
    # Who notices that the primary is lost, in the table's words.
    detects = "its agents"
    # Needs half a minute and more to notice; and the seconds between two looks.
    slow = False
    cycle = 0

    def missing(self):
        """What this contestant needs and this machine does not have."""
        folders = f"{binaries()}:/usr/sbin:/usr/bin:/sbin:/bin"
        programs = [program for program in self.programs if not shutil.which(program, path=folders)]
        return programs + [file for file in self.libraries if not (binaries() and (binaries().parent / file).exists())]

    def packages(self):
        """The Debian packages that have it."""
        return "postgresql"

    def versions(self):
        """Commands that say them."""
        return []

    def require(self, said, wanted):
        if wanted not in said:
            raise Trouble(f"{self.name}: `{wanted}` is not in its answer: {said.strip()[-300:]}")

    def start(self, place):
        raise NotImplementedError

    def settle(self):
        """Returns when the primary takes writes, the standby has everything, and whoever minds them knows it."""
        wait_for_pair(self.primary)

    def lose_primary(self):
        """The primary's host is gone; what there is to do by hand is done."""
        self.place.kill_node(self.primary.data, *([self.primary.agent] if self.primary.agent else []))

    def switch_over(self):
        """The standby becomes the primary while the primary lives."""
        raise NotImplementedError
