"""Patroni with etcd: each node's agent holds or watches a lease; who gets it is the primary."""
import json
import secrets
import urllib.request

from place import wait_for
from servers import CLIENTS_MAY, RETRY_AS_OURS, SETTINGS, Contestant, Node, binaries, wait_for_pair


class Patroni(Contestant):
    name = "Patroni"
    programs = ("patroni", "etcd", "postgres")
    # Patroni's own defaults, written down: a lease of 30 s, looked at every 10 s.
    lease = {"ttl": 30, "loop_wait": 10, "retry_timeout": 10}
    cycle = 10
    slow = True
    postgresql = {}

    def packages(self):
        return "patroni python3-etcd etcd-server"

    def versions(self):
        return [("patroni", "--version"), ("etcd", "--version")]

    def start(self, place):
        self.place = place
        clients, peers = (f"http://127.0.0.1:{place.port()}" for _ in range(2))
        store = place.make("etcd")
        etcd = ["--data-dir", store, "--name", "bench", "--listen-client-urls", clients, "--advertise-client-urls", clients]
        etcd += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"bench={peers}"]
        place.start("etcd", "etcd", *etcd)
        wait_for("etcd is healthy", lambda: _get(f"{clients}/health").get("health") == "true")

        passwords = {name: secrets.token_hex(16) for name in ("superuser", "replication")}
        self._api = {}
        nodes = [Node(place, "a"), Node(place, "b")]
        for node in nodes:
            self._api[node.name] = f"127.0.0.1:{place.port()}"
            file = place.write(f"{node.name}.json", json.dumps(self._configuration(node, clients, passwords)))
            node.agent = place.start(node.name, "patroni", file)
            # The first one makes the cluster; the second one copies it.
            wait_for(f"Patroni has started {node.name}", lambda: self._get(node, "patroni")["state"] == "running")
        self.primary, self.standby = nodes
        wait_for("the first node takes writes", self.primary.takes_writes)
        self.primary.make_table()
        self.settle()

    def _configuration(self, node, etcd, passwords):
        return {
            "scope": "bench",
            "name": node.name,
            "restapi": {"listen": self._api[node.name], "connect_address": self._api[node.name]},
            "etcd3": {"url": etcd},
            # A watchdog resets the machine, which is not ours to reset.
            "watchdog": {"mode": "off"},
            "bootstrap": {
                "dcs": {**self.lease, "postgresql": {"parameters": {**SETTINGS, **self.postgresql}}},
                "initdb": [{"auth": "trust"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{node.port}",
                "connect_address": f"127.0.0.1:{node.port}",
                "data_dir": str(node.data),
                "bin_dir": str(binaries()),
                "use_unix_socket": True,
                "parameters": {"unix_socket_directories": str(node.sockets)},
                "pg_hba": [
                    "local all all trust",
                    "host all postgres 127.0.0.1/32 scram-sha-256",
                    "host replication replicator 127.0.0.1/32 scram-sha-256",
                    CLIENTS_MAY,
                ],
                "pgpass": str(self.place.folder / f"{node.name}.pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres", "password": passwords["superuser"]},
                    "replication": {"username": "replicator", "password": passwords["replication"]},
                },
            },
        }

    def _get(self, node, path):
        return _get(f"http://{self._api[node.name]}/{path}")

    def settle(self):
        """Returns when the primary's agent knows the standby as one that it could hand over to."""
        wait_for_pair(self.primary)

        def ready():
            members = {member["name"]: member for member in self._get(self.primary, "cluster")["members"]}
            standby = members.get(self.standby.name, {})
            return standby.get("role") == "replica" and standby.get("state") in ("running", "streaming") and standby.get("lag") == 0

        wait_for("Patroni knows a standby without lag", ready)

    def switch_over(self):
        """What `patronictl switchover` asks of the REST API."""
        wanted = json.dumps({"leader": self.primary.name, "candidate": self.standby.name}).encode()
        request = urllib.request.Request(f"http://{self._api[self.primary.name]}/switchover", data=wanted, method="POST")
        with urllib.request.urlopen(request, timeout=120) as answer:
            self.require(answer.read().decode(), "Successfully switched over")
        self.primary, self.standby = self.standby, self.primary


class PatroniTuned(Patroni):
    settings = "ttl 5"
    lease = {"ttl": 5, "loop_wait": 1, "retry_timeout": 2}
    cycle = 1
    slow = False
    postgresql = RETRY_AS_OURS


def _get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)
