"""What the demo shows while it runs: stages, live figures and the latest alerts; plain lines where no terminal is."""

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from worker.demo.verdict import DemoVerdict
from worker.publishing import event_lines

PLAIN_EVERY = 3.0


class Screen:
    """A live display on a terminal, else lines."""

    def __init__(self, to_stderr: bool):
        self._console = Console(stderr=to_stderr, highlight=False)
        terminal = (sys.stderr if to_stderr else sys.stdout).isatty()
        self._live = Live(console=self._console, refresh_per_second=8, transient=False) if terminal else None
        self._stages: list[tuple[str, str]] = []
        self._figures: dict[str, str] = {}
        self._alerts: list[dict[str, Any]] = []
        self._plain_at = {"stage": 0.0, "figures": 0.0}

    def __enter__(self) -> "Screen":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def stage(self, name: str, detail: str = "") -> None:
        """Show a new stage, or news of the one that runs."""
        fresh = not self._stages or self._stages[-1][0] != name
        if fresh:
            self._stages.append((name, detail))
        else:
            self._stages[-1] = (name, detail)
        if self._live:
            self._live.update(self._drawn())
        elif self._due("stage") or fresh:
            self._console.print(f"{name}: {detail}" if detail else name)

    def figures(self, figures: dict[str, str], alerts: list[dict[str, Any]]) -> None:
        """Show the figures, and the latest alerts."""
        self._figures, self._alerts = figures, alerts
        if self._live:
            self._live.update(self._drawn())
        elif self._due("figures"):
            self._console.print("  ".join(f"{name} {value}" for name, value in figures.items()))
            if alerts:
                self._console.print(event_lines.anomaly(alerts[-1]), soft_wrap=True)

    def _due(self, section: str) -> bool:
        due = time.monotonic() >= self._plain_at[section]
        if due:
            self._plain_at[section] = time.monotonic() + PLAIN_EVERY
        return due

    def _drawn(self) -> Group:
        stages = Text(
            "\n".join(f"{'>' if i == len(self._stages) - 1 else '+'} {n}  {t}" for i, (n, t) in enumerate(self._stages))
        )
        parts: list[Any] = [Panel(stages, title="Offnormal demo", title_align="left")]
        if self._figures:
            table = Table.grid(padding=(0, 3))
            table.add_row(*(Text(name, style="dim") for name in self._figures))
            table.add_row(*(Text(value, style="bold") for value in self._figures.values()))
            parts.append(table)
        parts += [Text.from_markup(event_lines.anomaly(alert), overflow="ellipsis") for alert in self._alerts]
        for line in parts[2:]:
            line.no_wrap = True
        return Group(*parts)

    def summary(self, verdict: DemoVerdict) -> None:
        """Show the summary."""
        v = verdict
        table = Table(
            show_header=False, title="Summary, against the labels that only this summary has seen", title_justify="left"
        )
        asked, observed = v.false_alarm_rate["asked"], v.false_alarm_rate["observed"]
        table.add_row("vectors in", f"{v.vectors:,}")
        table.add_row("vectors scored", f"{v.scored:,}   lost {v.lost}, repeated {v.repeated}")
        table.add_row(
            "events", f"{v.events:,}   precision {v.precision:.3f}, recall {v.recall:.3f}, ROC-AUC {v.roc_auc:.4f}"
        )
        table.add_row("incidents", f"{v.incidents} of {v.events:,} events; a person is told {v.notifications} times")
        table.add_row("false alarms", f"{asked:.4%} of normal vectors asked for, {observed:.4%} observed")
        for version, rows in v.versions.items():
            table.add_row(f"scored by {version}", f"{rows:,}")
        if v.swap:
            table.add_row(
                "swap",
                f"at {v.swap['time']}: prepared beside the loop in {v.swap['prepared_seconds'] * 1000:.0f} ms,"
                f" the loop paused {v.swap['loop_paused_seconds'] * 1000:.2f} ms",
            )
        table.add_row("took", f"{v.seconds} s")
        self._console.print(table)
