"""Runs as tables: medians and worst cases in seconds, and as multiples of ours."""
import statistics

# Figure, kind of run, its words, which of its values, at most: what the suite promises itself with a caught-up standby.
TARGETS = [
    ("declare -> writable", "sudden", "declare to writable, worst", max, 0.5),
    ("gap", "planned", "clients' gap of a graceful move, worst", max, 1.0),
    ("lost", "planned", "acknowledged writes lost in a graceful move, worst", max, 0),
    ("per state", "sudden", "runner per state, sudden loss, median", statistics.median, 0.002),
    ("per state", "planned", "runner per state, graceful move, median", statistics.median, 0.002),
]
OUR_FIGURES = [
    ("asked -> writable", "from the event to the first committed write: process, plan, connections, survey, fence, promotion"),
    ("declare -> writable", "from the machine's first state: survey, fence, promotion"),
    ("declare -> first write", "the same, to the first acknowledged write of a client"),
    ("per state", "runner's own time per state, journal and intent synced to disk"),
    ("between functions", "runner's own time from one function's answer to the next one's call"),
]
KINDS = {
    "sudden": "Sudden loss of the primary's host",
    "planned": "Planned switchover",
}


def show(lines, absent):
    """Prints everything, and gives the exit code."""
    for line in lines:
        if "machine" in line:
            print(f"{line['at']} UTC: {line['machine']}; {'; '.join(line['versions'])}")
    runs = [line for line in lines if "machine" not in line]
    measured = [run for run in runs if "trouble" not in run]
    for kind, title in KINDS.items():
        _gaps(title, [run for run in measured if run["kind"] == kind])
    mine = [run for run in measured if run["who"] == "drctl"]
    if mine:
        _ours(mine)
    missed = _targets(mine)
    troubles = [run for run in runs if "trouble" in run]
    for run in troubles:
        print(f"FAILED {run['who']} ({run['settings']}), {run['kind']}, {run['at']}: {run['trouble']}")
    for peer in {peer.name: peer for peer in absent}.values():
        print(f"missing: {peer.name} ({', '.join(peer.missing())}); install it: sudo apt-get install -y {peer.packages()}")
    return 1 if missed or troubles else 3 if absent else 0


def _gaps(title, runs):
    """Everybody's gaps, the shortest median first. Ours stands there twice: with its detection and without."""
    contestants = {}
    for run in runs:
        gaps, lost = contestants.setdefault((run["who"], run["settings"], run["detects"]), ([], []))
        gaps.append(run["gap"])
        lost.append(run["lost"])
        if run["who"] == "drctl" and run["kind"] == "sudden":
            contestants.setdefault((run["who"], "from the declaration", "not counted"), ([], lost))[0].append(run["declare -> first write"])
    if not contestants:
        return
    whole = [gaps for (who, _, detects), (gaps, _) in contestants.items() if who == "drctl" and detects != "not counted"]
    ours = statistics.median(whole[0]) if whole else None
    print(f"\n{title}: seconds in which no client was acknowledged\n")
    print("| who | settings | who notices | median | worst | × ours | writes lost: median, worst | runs |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for (who, settings, detects), (gaps, lost) in sorted(contestants.items(), key=lambda item: statistics.median(item[1][0])):
        median = statistics.median(gaps)
        times = f"{median / ours:.1f}" if ours else "?"
        print(
            f"| {who} | {settings} | {detects} | {median:.2f} | {max(gaps):.2f} | {times}"
            f" | {statistics.median(lost):g}, {max(lost)} | {len(gaps)} |"
        )


def _ours(runs):
    print("\ndrctl alone, in milliseconds\n")
    print("| what | kind | median | 9 of 10 within | worst | measured |\n|---|---|---:|---:|---:|---:|")
    for figure, words in OUR_FIGURES:
        for kind in KINDS:
            values = _values([run for run in runs if run["kind"] == kind], figure)
            if values:
                ranked = sorted(value * 1000 for value in values)
                most = ranked[-(-len(ranked) * 9 // 10) - 1]
                print(f"| {words} | {kind} | {statistics.median(ranked):.1f} | {most:.1f} | {ranked[-1]:.1f} | {len(ranked)} |")


def _targets(runs):
    """Prints each target; true if one was missed."""
    missed = False
    for figure, kind, words, of, limit in TARGETS:
        values = _values([run for run in runs if run["kind"] == kind], figure)
        if values:
            value = of(values)
            missed |= value > limit
            print(f"{'missed' if value > limit else 'met'}: {words} {value:.4g}, at most {limit:g}; {len(values)} values")
    return missed


def _values(runs, figure):
    """A figure of every run; some runs have several values of one."""
    values = []
    for run in runs:
        value = run.get(figure)
        values += value if isinstance(value, list) else [] if value is None else [value]
    return values
