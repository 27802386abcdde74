"""Report the medians and ratios of the rounds as a table, as JSON and as a chart."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a client in a round.

    Attributes:
        key: Its name among the values of a round.
        label: Its name in the table, with the unit.
        form: The format to print it with.
        higher_is_better: Whether a larger value is better. In either case a ratio above
            1 says how many times better the baseline is.
        compared: Whether a ratio is shown.
    """

    key: str
    label: str
    form: str
    higher_is_better: bool = False
    compared: bool = True


@dataclass(slots=True)
class Comparison:
    """One scenario: its clients, and the values of their rounds.

    Attributes:
        title: The name of the scenario in the table.
        metrics: The metrics to show.
        baseline: The client to which the others are compared.
        rounds: For each client, the values of its rounds.
    """

    title: str
    metrics: Sequence[Metric]
    baseline: str
    rounds: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)

    def add(self, client: str, values: Mapping[str, float]) -> None:
        """Add the values of one round."""
        self.rounds.setdefault(client, []).append(values)

    def median(self, client: str, metric: Metric) -> float | None:
        """Return the median over the rounds."""
        values = [
            each[metric.key] for each in self.rounds[client] if metric.key in each
        ]
        return statistics.median(values) if values else None

    def ratio(self, client: str, metric: Metric) -> float | None:
        """Return by which factor the baseline is better than a client.

        This is the median of the ratios of each round.
        """
        if not metric.compared:
            return None
        pairs = zip(self.rounds[self.baseline], self.rounds[client], strict=True)
        ratios = [
            ours[metric.key] / theirs[metric.key]
            if metric.higher_is_better
            else theirs[metric.key] / ours[metric.key]
            for ours, theirs in pairs
        ]
        return statistics.median(ratios)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a value for JSON."""
        return {
            "title": self.title,
            "baseline": self.baseline,
            "clients": {
                client: {
                    metric.key: {
                        "unit": metric.label,
                        "median": self.median(client, metric),
                        "baseline_is_better_by": self.ratio(client, metric),
                        "rounds": [each.get(metric.key) for each in rounds],
                    }
                    for metric in self.metrics
                }
                for client, rounds in self.rounds.items()
            },
        }


@dataclass(slots=True)
class Results:
    """All scenarios, by name."""

    comparisons: dict[str, Comparison] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write all scenarios as JSON."""
        data = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "scenarios": {
                name: each.to_json() for name, each in self.comparisons.items()
            },
        }
        path.write_text(json.dumps(data, indent=2) + "\n")


def show(comparison: Comparison) -> str:
    """Return a table with a row per client; `x` has the ratio of the baseline."""
    header = [comparison.title]
    for metric in comparison.metrics:
        header += [metric.label, "x"] if metric.compared else [metric.label]
    rows = [header]
    for client in comparison.rounds:
        row = [client]
        for metric in comparison.metrics:
            value = comparison.median(client, metric)
            row.append("-" if value is None else metric.form.format(value))
            if metric.compared:
                row.append(f"{comparison.ratio(client, metric):.2f}")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = ""
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        text += "  ".join(cells).rstrip() + "\n"
    return text


def draw(results: Results, path: Path) -> None:
    """Draw the events per second of one watch, relative to the baseline's."""
    shown = [
        each
        for name, each in results.comparisons.items()
        if name.endswith(("-event", "-events"))
    ]
    if not shown:
        return
    # Importing matplotlib is slow, and only a chart needs it.
    import matplotlib.pyplot as plt

    clients = list(shown[0].rounds)
    metric = shown[0].metrics[0]
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    width = 0.8 / len(clients)
    for i, client in enumerate(clients):
        heights = [1 / (each.ratio(client, metric) or 1) for each in shown]
        places = [x + (i - (len(clients) - 1) / 2) * width for x in range(len(shown))]
        bars = axes.bar(places, heights, width * 0.9, label=client)
        axes.bar_label(bars, fmt="{:.2g}", fontsize=8)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylabel(f"events per second, {shown[0].baseline} = 1")
    axes.set_xticks(range(len(shown)), [each.title for each in shown])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(path, dpi=150)
