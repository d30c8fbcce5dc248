"""repmgr: a daemon beside each server; the standby's promotes it after so many failed looks at the primary.

A planned switchover logs in to the primary's host with ssh, so the bench runs an sshd of its own on 127.0.0.1.
"""
import secrets

from place import wait_for
from servers import CLIENTS_MAY, RETRY_AS_OURS, Contestant, Node, binaries, configuration, packaged, wait_for_pair


class Repmgr(Contestant):
    name = "repmgr"
    programs = ("repmgr", "repmgrd", "sshd", "ssh", "ssh-keygen", "postgres")
    # repmgr's own defaults, written down: looks every 2 s, then six more with 10 s between them.
    looks = {"monitor_interval_secs": 2, "reconnect_attempts": 6, "reconnect_interval": 10}
    cycle = 2
    slow = True
    postgresql = {}

    def packages(self):
        return f"repmgr {packaged('repmgr')} openssh-server openssh-client"

    def versions(self):
        return [(binaries() / "repmgr", "--version")]

    def start(self, place):
        self.place, tools = place, binaries()
        self._password = secrets.token_hex(16)
        self._login()
        self.primary, self.standby = primary, standby = Node(place, "a"), Node(place, "b")
        self._passfile = place.write("pgpass", f"127.0.0.1:*:*:repmgr:{self._password}\n")

        place.run(tools / "initdb", "-D", primary.data, "-U", "postgres", "-A", "trust", "--no-sync")
        place.write("a/pg_hba.conf", self._access())
        self._serve(primary)
        primary.make_table()
        primary.ask(f"create role repmgr superuser replication login password '{self._password}'")
        primary.ask("create database repmgr owner repmgr")
        self._describe(1, primary)
        self._repmgr(primary, "primary", "register")

        self._describe(2, standby)
        self._repmgr(standby, "standby", "clone", "--fast-checkpoint", "-d", self._address(primary))
        self._serve(standby)
        self._repmgr(standby, "standby", "register")
        for node in (primary, standby):
            node.agent = place.start(
                f"{node.name}.repmgrd", tools / "repmgrd", "-f", self._file(node), "--daemonize=false", "--no-pid-file"
            )
        self.settle()

    def _access(self):
        return (
            "local all all trust\n"
            "host all repmgr 127.0.0.1/32 scram-sha-256\n"
            "host replication repmgr 127.0.0.1/32 scram-sha-256\n"
            f"{CLIENTS_MAY}\n"
        )

    def _serve(self, node):
        more = {"shared_preload_libraries": "repmgr", **self.postgresql}
        self.place.write(f"{node.name}/postgresql.conf", configuration(node.port, node.sockets, **more))
        # As repmgr starts it after a switchover.
        self.place.run(binaries() / "pg_ctl", "start", "-w", "-D", node.data, "-l", self.place.folder / f"{node.name}.log")

    def _address(self, node):
        return f"host=127.0.0.1 port={node.port} user=repmgr dbname=repmgr passfile={self._passfile} connect_timeout=2"

    def _file(self, node):
        return self.place.folder / f"{node.name}.repmgr.conf"

    def _describe(self, number, node):
        tools, file = binaries(), self._file(node)
        settings = {
            "node_id": number,
            "node_name": node.name,
            "conninfo": self._address(node),
            "passfile": self._passfile,
            "data_directory": node.data,
            "pg_bindir": tools,
            "use_replication_slots": "true",
            "failover": "automatic",
            "promote_command": f"{tools}/repmgr standby promote -f {file}",
            "follow_command": f"{tools}/repmgr standby follow -f {file} --upstream-node-id=%n",
            "ssh_options": f"-q -F {self.place.folder}/ssh_config",
            "repmgr_bindir": tools,
            **self.looks,
        }
        self.place.write(file, "".join(f"{name}='{value}'\n" for name, value in settings.items()))

    def _repmgr(self, node, *command):
        return self.place.run(binaries() / "repmgr", "-f", self._file(node), *command)

    def _login(self):
        """An sshd that lets this account in with a key made for it."""
        place, port = self.place, self.place.port()
        folder = place.make("ssh")
        for key in ("host", "user"):
            place.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
        place.write("ssh/authorized_keys", (folder / "user.pub").read_text())
        place.write("ssh/known_hosts", f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
        place.write(
            "sshd_config",
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
            "PidFile none\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            # The folder lies under one that others may enter.
            "StrictModes no\n",
        )
        place.write(
            "ssh_config",
            f"Host *\nPort {port}\nUser {place.user}\nIdentityFile {folder}/user\nIdentitiesOnly yes\nBatchMode yes\n"
            f"UserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile none\nStrictHostKeyChecking yes\n",
        )
        # sshd starts itself again for each login and wants to be called by its full name.
        place.start("sshd", "/usr/sbin/sshd", "-D", "-e", "-f", place.folder / "sshd_config")
        wait_for("sshd answers", lambda: place.try_run("ssh", "-q", "-F", place.folder / "ssh_config", "127.0.0.1", "true"))

    def settle(self):
        """Returns when both daemons watch."""
        wait_for_pair(self.primary)

        def watching():
            rows = self._repmgr(self.primary, "service", "status", "--csv").splitlines()
            # node, name, role, server runs, daemon runs, its process, paused, …
            known = [row.split(",") for row in rows if row.split(",")[0].isdigit()]
            return len(known) == 2 and all(row[4] == "1" and row[6] == "0" for row in known)

        wait_for("both repmgrd watch", watching, every=0.2)

    def switch_over(self):
        said = self._repmgr(self.standby, "standby", "switchover")
        self.require(said, "STANDBY SWITCHOVER has completed successfully")
        self.primary, self.standby = self.standby, self.primary


class RepmgrTuned(Repmgr):
    settings = "3 looks, 1 s"
    looks = {"monitor_interval_secs": 1, "reconnect_attempts": 3, "reconnect_interval": 1}
    cycle = 1
    slow = False
    postgresql = RETRY_AS_OURS
