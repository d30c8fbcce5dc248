"""Ours: each run is `drctl drill --lab` with its own pair, clients, clusters and emulated AWS; the figures come from its report.

Where the others' agents detect, `drctl watch` does: three silent looks in a row, a quarter of a second apart.
"""
import json
import pathlib
import subprocess
import tempfile
from datetime import datetime

from place import Trouble


def drill(drctl, graceful, folder):
    """The figures of one drill, in seconds; its run is kept in a folder of its own under this one."""
    runs = pathlib.Path(tempfile.mkdtemp(prefix="drill-", dir=folder))
    command = [str(drctl), "drill", "--lab", "--json", "--runs-dir", str(runs)] + (["--graceful"] if graceful else [])
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        last = " / ".join((done.stderr + done.stdout).strip().splitlines()[-3:])
        raise Trouble(f"`drctl drill --lab` ended with {done.returncode}: {last[-400:]}")
    report = json.loads(done.stdout)
    return _figures(report, runs / report["run"])


def _figures(report, folder):
    record, seen = report["record"], report["drill"]
    started, writable = _instant(record["started_at"]), _instant(record["promotion"]["writable_at"])
    asked = _instant(record["event"]["time"])
    return {
        "gap": seen["client_gap_seconds"],
        "lost": len(seen["lost_writes"]),
        "acknowledged": seen["acknowledged_writes"],
        "asked -> writable": (writable - asked).total_seconds(),
        "declare -> writable": (writable - started).total_seconds(),
        "declare -> first write": (_instant(seen["first_write_after"]) - started).total_seconds(),
        **_runner(folder),
    }


def _runner(folder):
    """The runner's own time: from the answer of one function to the call of the next that follows from it.

    The journal says what follows from what, the log when functions were called and how long they took. What lies between:
    the answer and the intent on disk with a sync, the states from the answered one to the called one, history, record and
    card of the run, progress. A call that follows from a pause is left out: the pause is the machine's.
    """
    calls = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "call" in entry:
            calls[entry["call"]] = (_instant(entry["began_at"]), entry["took_us"] / 1e6, entry["state"])
    states = _entered(folder)
    between, each = [], []
    answered = None
    for line in (folder / "journal").read_text().splitlines():
        record = json.loads(line.partition(" ")[2])
        if record["record"] == "happened":
            ended = record["input"].get("call-ended") if isinstance(record["input"], dict) else None
            answered = ended and ended["call"]
        elif record["record"] == "intent" and answered in calls:
            began, took, _ = calls[answered]
            for call, _ in record["calls"]:
                if call in calls:
                    own = (calls[call][0] - began).total_seconds() - took
                    between.append(own)
                    each.append(own / states[calls[call][2]])
    return {"between functions": between, "per state": each}


def _entered(folder):
    """How many states the runner entered from the last answer before a state to that state, itself included."""
    events = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    counted, since = {}, 0
    for event in events:
        if event["type"] in ("TaskSucceeded", "TaskFailed", "TaskTimedOut"):
            since = 0
        elif event["type"].endswith("StateEntered"):
            since += 1
            counted[event["stateEnteredEventDetails"]["name"]] = since
    return counted


def _instant(text):
    """RFC 3339 in UTC with any number of digits; Python before 3.11 takes three or six."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(fraction + '000000')[:6]}+00:00")
