"""Where a contestant runs: a folder, an ordinary account, ports on 127.0.0.1, and processes that end with us."""
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from guard import descendants, libc, send

PR_SET_PDEATHSIG = 1
IPC_RMID = 0


class Trouble(Exception):
    """What ends the bench, in one line: what, where, what to do."""


def _account():
    """Whom servers run as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Trouble("servers cannot run as root and there is no user `postgres`; install postgresql, or run as an ordinary user")


class Place:
    """One contestant's folder and processes."""

    def __init__(self, folder):
        self.account = _account()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=folder))
        self._shared_memory = set()
        self._children = []
        self._ports = set()
        self._give(self.folder)
        self.sockets = self.make("s")
        self.environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C",
            "TZ": "UTC",
            "HOME": str(self.folder),
            "USER": self.user,
        }

    @property
    def user(self):
        return self.account.pw_name if self.account else pwd.getpwuid(os.geteuid()).pw_name

    def _give(self, path):
        if self.account:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def make(self, name):
        """A folder that only the account may enter."""
        path = self.folder / name
        path.mkdir(mode=0o700)
        self._give(path)
        return path

    def write(self, path, text):
        """A file that only the account may read."""
        path = self.folder / path
        path.write_text(text)
        path.chmod(0o600)
        self._give(path)
        return path

    def port(self):
        """A port that nobody listens on, given out once."""
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            if port not in self._ports:
                self._ports.add(port)
                return port

    def _identity(self):
        if not self.account:
            return {}
        return {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}

    def start(self, name, *command, **environment):
        """Starts a server; its output goes to `NAME.log`. It is killed with us."""
        log = open(self.folder / f"{name}.log", "ab")
        with log:
            child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**self.environment, **environment},
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
                **self._identity(),
            )
        self._children.append(child)
        return child

    def run(self, *command):
        """What a tool says when it runs to a good end."""
        code, said = self._run(command)
        if code != 0:
            last = " / ".join(said.strip().splitlines()[-3:])
            raise Trouble(f"`{pathlib.Path(str(command[0])).name} {command[1]}` ended with {code}: {last}")
        return said

    def try_run(self, *command):
        """True when a tool runs to a good end."""
        return self._run(command)[0] == 0

    def _run(self, command):
        # Not a pipe: a daemon that the tool leaves behind would hold it open.
        output = self.folder / "command.log"
        with open(output, "wb") as log:
            done = subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environment,
                timeout=180,
                **self._identity(),
            )
        return done.returncode, output.read_text(errors="replace")

    def kill_node(self, data, *agents):
        """The host is gone: `SIGKILL` for a server, its agents and all their children at once."""
        roots = [agent.pid for agent in agents]
        postmaster = int((data / "postmaster.pid").read_text().splitlines()[0])
        if os.readlink(f"/proc/{postmaster}/cwd") != str(data):
            raise Trouble(f"process {postmaster} is not the server of {data}; its log says why it ended")
        roots.append(postmaster)
        self._remember_shared_memory(data)
        for pid in roots:
            send(pid, signal.SIGSTOP)
        for pid in [*roots, *(child for root in roots for child in descendants(root))]:
            send(pid, signal.SIGKILL)
        for agent in agents:
            agent.wait()

    def _remember_shared_memory(self, data):
        """A killed server leaves its System V segment behind; key and number stand in `postmaster.pid`."""
        lines = (data / "postmaster.pid").read_text().splitlines()
        if len(lines) > 6:
            self._shared_memory.add(tuple(lines[6].split()))

    def _free_shared_memory(self):
        for line in pathlib.Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            key, number, _, _, _, _, attached, *_ = line.split()
            if (key, number) in self._shared_memory and attached == "0":
                libc.shmctl(int(number), IPC_RMID, None)

    def _running(self):
        """What still runs of what was started here: our children with theirs, and daemons, which work in this folder."""
        running = set()
        for child in self._children:
            if child.poll() is None:
                running |= {child.pid, *descendants(child.pid)}
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                works_in = pathlib.Path(os.readlink(process / "cwd"))
            except OSError:
                continue
            if self.folder in (works_in, *works_in.parents):
                running.add(int(process.name))
        return running - {os.getpid()}

    def end(self):
        """Ends every process that was started here, and removes the folder."""
        for pid_file in self.folder.glob("**/postmaster.pid"):
            self._remember_shared_memory(pid_file.parent)
        deadline = time.monotonic() + 30
        while running := self._running():
            for pid in running:
                send(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise Trouble(f"processes {running} do not end; end them by hand")
            time.sleep(0.01)
        self._free_shared_memory()
        shutil.rmtree(self.folder)


def wait_for(what, condition, seconds=120, every=0.02):
    """Waits until `condition` gives something, and gives it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            result = condition()
        except OSError:
            result = None
        if result:
            return result
        if time.monotonic() > deadline:
            raise Trouble(f"waited {seconds} s in vain: {what}")
        time.sleep(every)
