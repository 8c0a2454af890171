"""The arithmetic of `make bench`; the measuring itself is no test's business."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks.bench import pgbench, report, scripts
from benchmarks.bench.report import Line

OUTPUT = """\
transaction type: update.sql
number of transactions actually processed: 1234
number of failed transactions: 2 (0.162%)
latency average = 12.987 ms
initial connection time = 20.1 ms
tps = 616.021312 (without initial connection time)
"""


def test_what_pgbench_prints_is_understood() -> None:
    assert pgbench.parse(OUTPUT) == pgbench.Measured(616.021312, 12.987, 2)
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
