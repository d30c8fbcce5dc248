"""A parent that outlives the work: nothing that the work starts survives it, whatever happens to it.

Daemons let go of their parents and become children of the guard (`PR_SET_CHILD_SUBREAPER`). It waits for each, as init
would: an agent that waits for the end of a server would otherwise wait for ever. When the work is over, killed or not, the
guard ends what is left and removes the folder. Processes are found by descent, never by name.
"""
import ctypes
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
libc = ctypes.CDLL(None, use_errno=True)


def guarded(work):
    """Runs `work(folder)` in a child and ends with its exit code; the folder and all that was started are gone then."""
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("this kernel does not let a process adopt orphans (PR_SET_CHILD_SUBREAPER); Linux 3.4 does")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="failover-"))
    # Servers run as another user and must find their way in.
    folder.chmod(0o711)
    worker = os.fork()
    if worker == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            work(folder)
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            # Also when the guard itself was killed.
            shutil.rmtree(folder, ignore_errors=True)
        sys.exit(0)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: send(worker, signal.SIGTERM))
    # The worker has the terminal's interrupt too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = None
    while code is None:
        pid, status = os.wait()
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)
    while left := descendants(os.getpid()):
        for pid in left:
            send(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code if code >= 0 else 128 - code)


def descendants(root):
    """Every living process under one that we have started, or under ourselves, by the kernel's table."""
    if root <= 1:
        raise ValueError("everything descends from process 1")
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = pathlib.Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            # The name in parentheses may hold anything.
            state, parent = stat.rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry))
    found, look_at = [], [root]
    while look_at:
        below = children.get(look_at.pop(), [])
        found += below
        look_at += below
    return found


def send(pid, number):
    """A signal for a process that may be gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
