"""pg_auto_failover: a monitor that looks at both nodes and assigns states, and a keeper beside each server that reaches them."""
import json

from place import wait_for
from servers import CLIENTS_MAY, RETRY_AS_OURS, SETTINGS, Contestant, Node, binaries, packaged, wait_for_pair


class AutoFailover(Contestant):
    name = "pg_auto_failover"
    programs = ("pg_autoctl", "postgres", "initdb")
    libraries = ("lib/pgautofailover.so",)
    # The monitor's own defaults: looks every 5 s, 20 s until a node is unhealthy, 30 s for the old primary to demote itself.
    looks = {}
    cycle = 5
    slow = True
    postgresql = {}

    def packages(self):
        return f"pg-auto-failover-cli {packaged('auto-failover')}"

    def versions(self):
        return [("pg_autoctl", "version")]

    def start(self, place):
        self.place = place
        for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
            place.environment[name] = str(place.make(name.lower()))
        # Where it looks for servers, and for their programs.
        place.environment["PGHOST"] = str(place.sockets)
        place.environment["PATH"] = f"{binaries()}:{place.environment['PATH']}"

        monitor = self._monitor()
        uri = f"postgres://autoctl_node@127.0.0.1:{monitor.port}/pg_auto_failover?sslmode=disable"

        self.primary, self.standby = nodes = Node(place, "a"), Node(place, "b")
        for node in nodes:
            if node is self.primary:
                self._prepare(node, {**SETTINGS, **self.postgresql})
            place.run(
                "pg_autoctl", "create", "postgres", "--pgdata", node.data, "--pgport", node.port, "--listen", "127.0.0.1",
                "--pghost", node.sockets, "--username", "postgres", "--dbname", "postgres", "--name", node.name, "--monitor", uri,
                "--auth", "trust", "--no-ssl", "--hostname", "127.0.0.1",
            )  # fmt: skip
            self._run(node)
            if node is self.primary:
                wait_for("the first node takes writes", node.takes_writes)
                node.make_table()
        self.settle()

    def _prepare(self, node, settings):
        """A cluster that pg_autoctl finds and takes over."""
        self.place.run(binaries() / "initdb", "-D", node.data, "-U", "postgres", "-A", "trust", "--no-sync")
        lines = {**settings, "unix_socket_directories": str(node.sockets)}
        self.place.write(f"{node.name}/postgresql.auto.conf", "".join(f"{k} = '{v}'\n" for k, v in lines.items()))
        self.place.write(f"{node.name}/pg_hba.conf", f"local all all trust\nlocal replication all trust\n{CLIENTS_MAY}\n")

    def _monitor(self):
        """A server with the extension. `pg_autoctl create monitor` would make the same one and have it listen everywhere."""
        monitor = Node(self.place, "monitor")
        self._prepare(monitor, {"shared_preload_libraries": "pgautofailover", **SETTINGS, **self.looks})
        self.place.write(
            "monitor/pg_hba.conf", "local all all trust\nhost pg_auto_failover autoctl_node 127.0.0.1/32 trust\n"
        )
        listen = ("-c", "listen_addresses=127.0.0.1", "-p", monitor.port)
        monitor.agent = self.place.start("monitor", binaries() / "postgres", "-D", monitor.data, *listen)
        wait_for("the monitor answers", lambda: monitor.ask("select 1"))
        monitor.ask("create role autoctl login")
        monitor.ask("create database pg_auto_failover owner autoctl")
        monitor.ask("create extension pgautofailover cascade", "pg_auto_failover")
        return monitor

    def _run(self, node):
        node.agent = self.place.start(node.name, "pg_autoctl", "run", "--pgdata", node.data)

    def settle(self):
        """Returns when the monitor calls one primary and the other secondary, and has seen both healthy."""
        def settled():
            said = self.place.run("pg_autoctl", "show", "state", "--pgdata", self.primary.data, "--json")
            states = {node["nodename"]: (node["current_group_state"], node["health"]) for node in json.loads(said)}
            return states == {self.primary.name: ("primary", 1), self.standby.name: ("secondary", 1)}

        wait_for("pg_auto_failover has a primary and a secondary", settled, every=0.2)
        wait_for_pair(self.primary)

    def switch_over(self):
        self.place.run("pg_autoctl", "perform", "switchover", "--pgdata", self.primary.data)
        self.primary, self.standby = self.standby, self.primary


class AutoFailoverTuned(AutoFailover):
    settings = "looks 1 s, unhealthy 3 s, demotion 3 s"
    cycle = 1
    slow = False
    postgresql = RETRY_AS_OURS
    looks = {
        "pgautofailover.health_check_period": "1s",
        "pgautofailover.health_check_timeout": "1s",
        "pgautofailover.health_check_max_retries": "1",
        "pgautofailover.health_check_retry_delay": "1s",
        "pgautofailover.node_considered_unhealthy_timeout": "3s",
        # With 1 s one of ten switchovers left two primaries with traffic, and 1,755 acknowledged writes were lost (seen on 2.0).
        "pgautofailover.primary_demote_timeout": "3s",
        "pgautofailover.startup_grace_period": "1s",
    }
