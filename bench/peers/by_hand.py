"""The floor: a person who knows at once, and types `pg_promote` without looking. Nothing is fenced, checked or detected."""
from place import wait_for
from servers import CLIENTS_MAY, RETRY_AS_OURS, Contestant, Node, binaries, configuration, wait_for_pair


class ByHand(Contestant):
    name = "raw pg_promote"
    settings = "retry 0.1 s"
    programs = ("postgres", "initdb", "pg_basebackup")
    detects = "nobody: it knows"
    postgresql = RETRY_AS_OURS

    def start(self, place):
        self.place, tools = place, binaries()
        primary, standby = Node(place, "a"), Node(place, "b")
        place.run(tools / "initdb", "-D", primary.data, "-U", "postgres", "-A", "trust", "--no-sync")
        place.write("a/postgresql.conf", configuration(primary.port, primary.sockets, **self.postgresql))
        place.write("a/pg_hba.conf", f"local all all trust\nlocal replication all trust\n{CLIENTS_MAY}\n")
        self._serve(primary)
        primary.make_table()
        place.run(tools / "pg_basebackup", "-h", primary.sockets, "-p", primary.port, "-U", "postgres", "-D", standby.data, "-c", "fast")
        self.primary, self.standby = primary, standby
        self._follow()
        self.settle()

    def _follow(self):
        primary, standby = self.primary, self.standby
        more = {"primary_conninfo": f"host={primary.sockets} port={primary.port} user=postgres", **self.postgresql}
        self.place.write(f"{standby.name}/postgresql.conf", configuration(standby.port, standby.sockets, **more))
        self.place.write(f"{standby.name}/standby.signal", "")
        self._serve(standby)

    def _serve(self, node):
        node.agent = self.place.start(node.name, binaries() / "postgres", "-D", node.data)
        wait_for(f"{node.name} answers", lambda: node.ask("select 1"))

    def lose_primary(self):
        super().lose_primary()
        self.standby.ask("select pg_promote(true, 60)")

    def switch_over(self):
        """A clean stop sends the standby everything before it ends."""
        self.place.run(binaries() / "pg_ctl", "stop", "-D", self.primary.data, "-m", "fast")
        self.standby.ask("select pg_promote(true, 60)")
        self.primary, self.standby = self.standby, self.primary

    def settle(self):
        if self.standby.agent.poll() is not None:
            self._follow()
        super().settle()


class ByHandDefault(ByHand):
    settings = "retry 5 s (default)"
    postgresql = {}
