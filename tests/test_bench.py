"""The arithmetic of `make bench` and its neighbours; the measuring itself is no test's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks import procfs, recovery
from benchmarks.bench import pgbench, report, scripts
from benchmarks.bench.report import Line
from benchmarks.growth import Point, Round

WORK = "import sys; sum(range(3_000_000)); print(end='.', flush=True); sys.stdin.read()"
OUTPUT = """\
transaction type: update.sql
number of transactions actually processed: 1234
number of failed transactions: 2 (0.162%)
latency average = 12.987 ms
initial connection time = 20.1 ms
tps = 616.021312 (without initial connection time)
"""


def test_what_pgbench_prints_is_understood() -> None:
    assert pgbench.parse(OUTPUT) == pgbench.Measured(616.021312, 12.987, 1234, 2)
    with pytest.raises(ValueError, match="no result of pgbench"):
        pgbench.parse("connection to server failed")


def test_medians_ratios_and_goals() -> None:
    more = Line("update", 16, "tps", 3.0, values={"A": [300, 900, 310], "B": [100, 100, 100]})
    less = Line("update", 1, "ms", 1.0, True, values={"A": [2, 2, 2], "B": [1, 1, 1]})
    alone = Line("insert", 16, "tps", 3.0, values={"A": [5, 5, 5]})
    assert more.ratio("A", "B") == 3.1
    assert (more.reached(3.1), more.reached(2.9)) == (True, False)
    assert (less.reached(0.9), less.reached(1.1)) == (True, False)
    assert alone.ratio("A", "B") is None
    text = report.table([more, less, alone], "A", "B").splitlines()
    assert text[1].split() == [
        "update,",
        "16",
        "clients",
        *("310", "tps", "±97%"),
        *("100", "tps", "±0%"),
        "3.10",
        "≥",
        "3",
        "reached",
    ]
    assert text[2].endswith("missed")
    assert text[3].split() == ["insert,", "16", "clients", "5.00", "tps", "±0%", "-", "-", "≥", "3"]
    assert json.loads(json.dumps(report.as_json([more, alone], "A", "B")))[0]["ratio"] == 3.1
    ElementTree.fromstring(report.plot([more, less, alone], "A", "B"))


def test_both_get_pgbenchs_rows() -> None:
    statements = list(scripts.fill(2))
    assert sum(rows for _, rows in statements) == 2 + 20 + 200_000
    assert "(200000, 2, 0," in statements[-1][0]


def test_a_goal_of_our_own_needs_nobody_to_compare_with() -> None:
    line = Line("pages to redo", 16, "times", 10, own_goal=True, values={"A": [12, 30, 11]})
    less = Line("pages to redo", 16, "times", 10, own_goal=True, values={"A": [9], "B": [1]})
    assert (line.verdict("A", "B"), less.verdict("A", "B")) == ("reached", "missed")
    assert less.ratio("A", "B") is None
    text = report.table([line], "A", "B").splitlines()
    assert text[1].split()[-6:] == ["±79%", "-", "-", "≥", "10", "reached"]
    assert "pages to redo" not in report.plot([line], "A", "B")
    assert Line("insert", 16, "tps", 3.0, values={"A": [5]}).verdict("A", "B") == ""


def test_what_the_kernel_says_of_a_process() -> None:
    text = (
        "5562d000-7ffe rollup\nRss:   2048 kB\nPss:  1024 kB\nPss_Dirty:  512 kB\nPss_Anon: 8 kB\n"
    )
    assert procfs.parse_memory(text) == procfs.Memory(pss=2**20, rss=2**21)
    with pytest.raises(ValueError, match="no sizes of memory"):
        procfs.parse_memory("Rss: 1 kB\n")
    child = subprocess.Popen(
        [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.read(1) == b"."
    try:
        assert child.pid in procfs.children(os.getpid())
        assert os.getpid() not in procfs.children(os.getpid())
        assert procfs.is_alive(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
        assert not procfs.is_alive(child.pid)
        used, ended = procfs.cpu_s(child.pid), procfs.ended_children_cpu_s(os.getpid())
    finally:
        child.communicate()
    ended = procfs.ended_children_cpu_s(os.getpid()) - ended
    assert used > 0
    # User and system time are cut to ticks apart: two of them here, and four in a difference of two sums.
    assert abs(ended - used) < 4.5 / procfs.TICKS
    assert child.pid not in procfs.children(os.getpid())
    assert not procfs.is_alive(child.pid)


def test_growth_adds_up_kinds_of_processes_and_divides_by_commits() -> None:
    cpu = {"main-1": 0.2, "main-2": 0.1, "main-3": 0.1, "storage-1": 0.3, "storage-2": 0.5}
    rounds = [
        Round(300, 300, 1.0, {**cpu, "archive-main": 0.1, "supervisor": 0.1}),
        Round(350, 700, 2.0, {"main-1": 0.8}),
        Round(500, 1000, 2.0, {"main-1": 1.0}),
    ]
    point = Point(2**20, 2, rounds)
    assert point.rate() == 350.0
    assert point.cpu_us() == pytest.approx(
        {"writer": 1000, "storage": 400, "replica": 100, "others": 100}
    )
    assert point.busy() == pytest.approx(3.2 / 5)
    shown = point.as_json()
    assert shown["cpu_us_per_commit"]["all"] == 1600
    assert shown["commits_per_s"] == [300.0, 350.0, 500.0]


def test_ratios_of_recoveries() -> None:
    def rounds(little: float, much: float) -> list[dict[str, object]]:
        return [{"client_gap_ms": {"median": value}} for value in (little, much)]

    assert recovery.ratios({"A": rounds(100, 150), "B": rounds(200, 600)}) == {
        "A: much redo to little": 1.5,
        "B: much redo to little": 3.0,
        "A to B, little redo": 0.5,
        "A to B, much redo": 0.25,
    }
    assert recovery.ratios({"A": rounds(100, 150)}) == {"A: much redo to little": 1.5}
