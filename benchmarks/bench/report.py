"""What came out: medians, spread, ratios; a table to read, and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes so far: of the log, one copy; and of the pages that were changed, each anew for every commit,
    as they would have been shipped had there been no log. None: not counted."""

    log: int
    dirty_pages: int | None = None


@dataclass
class Line:
    """One work with so many clients. `values` by database, one of each round."""

    name: str
    clients: int
    unit: str
    goal: float
    less_is_better: bool = False
    own_goal: bool = False
    """The goal is one for our own figure, and not for its ratio to theirs."""
    values: dict[str, list[float]] = field(default_factory=dict)

    def median(self, database: str) -> float:
        return statistics.median(self.values[database])

    def spread(self, database: str) -> float:
        """Half of the distance from the least to the largest, relative to the median."""
        found = self.values[database]
        return (max(found) - min(found)) / 2 / max(1e-9, self.median(database))

    def ratio(self, ours: str, theirs: str) -> float | None:
        """Ours to theirs; None without theirs."""
        if self.own_goal or not self.values.get(theirs) or not self.values.get(ours):
            return None
        return self.median(ours) / max(1e-9, self.median(theirs))

    def reached(self, figure: float) -> bool:
        """`figure` is a ratio, or our own figure where the goal is one for that."""
        return figure <= self.goal if self.less_is_better else figure >= self.goal

    def verdict(self, ours: str, theirs: str) -> str:
        """ "" where there is nothing to compare."""
        own = self.own_goal and self.values.get(ours)
        figure = self.median(ours) if own else self.ratio(ours, theirs)
        return "" if figure is None else "reached" if self.reached(figure) else "missed"

    @property
    def label(self) -> str:
        return f"{self.name}, {self.clients} client{'s' if self.clients != 1 else ''}"


def table(lines: Sequence[Line], ours: str, theirs: str) -> str:
    rows: list[tuple[str, ...]] = [("work", ours, theirs, "ratio", "goal", "")]
    for line in lines:
        ratio = line.ratio(ours, theirs)
        sign = "≤" if line.less_is_better else "≥"
        rows.append(
            (
                line.label,
                *(_cell(line, database) for database in (ours, theirs)),
                "-" if ratio is None else f"{ratio:.2f}",
                f"{sign} {line.goal:g}",
                line.verdict(ours, theirs),
            )
        )
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cell(line: Line, database: str) -> str:
    if not line.values.get(database):
        return "-"
    median = line.median(database)
    number = f"{median:,.0f}" if median >= 100 else f"{median:.2f}"
    return f"{number} {line.unit} ±{100 * line.spread(database):.0f}%"


def as_json(lines: Sequence[Line], ours: str, theirs: str) -> list[Mapping[str, object]]:
    return [
        {
            "work": line.name,
            "clients": line.clients,
            "unit": line.unit,
            "values": line.values,
            "ratio": line.ratio(ours, theirs),
            "goal": line.goal,
            "verdict": line.verdict(ours, theirs),
        }
        for line in lines
    ]


BAR, GAP, LEFT, WIDTH = 14, 10, 300, 900


def plot(lines: Sequence[Line], ours: str, theirs: str) -> str:
    """Ratios as bars, the goal a line across each; an SVG."""
    shown = [(line, ratio) for line in lines if (ratio := line.ratio(ours, theirs)) is not None]
    most = max([1.0, *(max(ratio, line.goal) for line, ratio in shown)])
    unit = (WIDTH - LEFT - 60) / most
    height = 50 + len(shown) * (BAR + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<text x="10" y="20" font-size="14">{escape(ours)} to {escape(theirs)}</text>',
    ]
    for number, (line, ratio) in enumerate(shown):
        top = 34 + number * (BAR + GAP)
        fill = "#2a7" if line.reached(ratio) else "#c63"
        goal = LEFT + line.goal * unit
        parts += [
            f'<text x="{LEFT - 8}" y="{top + BAR - 3}" text-anchor="end">{escape(line.label)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{ratio * unit:.1f}" height="{BAR}" fill="{fill}"/>',
            f'<line x1="{goal:.1f}" x2="{goal:.1f}" y1="{top - 3}" y2="{top + BAR + 3}" stroke="#000"/>',
            f'<text x="{LEFT + ratio * unit + 6:.1f}" y="{top + BAR - 3}">{ratio:.2f}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])
