"""Events and incidents as one line of rich markup each."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from worker.observability.terminal_text import in_markup

NAMED = 3  # sensors, and related entities, that a line names


def anomaly(event: dict[str, Any]) -> str:
    """Return a line for an anomaly: when, what, how sure, which sensors. Raises KeyError and the like if it is none."""
    data = event["data"]
    sensors = ", ".join(_sensor(feature) for feature in data["features"][:NAMED])
    return (
        f"[dim]{in_markup(data['time'])}[/dim] {_severity(data['severity'])} {_entity(data['entity'])}"
        f"  score {data['score']:.2f} (over {data['threshold']:.2f})  p {data['p_value']:.1e}  {sensors}"
        f"  [dim]{in_markup(event['id'])}[/dim]"
    )


def incident(event: dict[str, Any], related: Sequence[str]) -> str:
    """Return a line for an incident: when, what, how long, how sure, which sensors, and the `related` ones."""
    data = event["data"]
    seconds = (datetime.fromisoformat(data["latest"]) - datetime.fromisoformat(data["started"])).total_seconds()
    sensors = ", ".join(f"{in_markup(f['name'])} {f['contribution']:.0%}" for f in data["features"][:NAMED])
    models = ", ".join(in_markup(f"{m['name']}/{m['version']}") for m in data["models"])
    parts = [
        f"[dim]{in_markup(data['latest'])}[/dim] {in_markup(data['state']):<6} {_severity(data['severity'])}"
        f" {_entity(data['entity'])}",
        f"{'lasted' if data['state'] == 'closed' else 'for'} {_duration(seconds)}, {data['vectors']:,} vectors",
        f"p {data['peak_p_value']:.1e}",
        sensors,
        f"by {models}",
    ]
    if related:
        more = f" and {len(related) - NAMED} more" if len(related) > NAMED else ""
        parts.append(f"[bold]related: {', '.join(map(in_markup, related[:NAMED]))}{more}[/bold]")
    if data["notify"]:
        parts.append("[bold red]notify[/bold red]")
    return "  ".join([*parts, f"[dim]{in_markup(data['incident'])}[/dim]"])


def _severity(severity: str) -> str:
    colour = "red" if severity == "alarm" else "yellow"
    return f"[{colour}]{in_markup(severity):<7}[/{colour}]"


def _entity(entity: Any) -> str:
    return f"[bold]{in_markup(entity or '-')}[/bold]"


def _sensor(feature: dict[str, Any]) -> str:
    actual = "missing" if feature["missing"] else f"{feature['actual']:.4g}"
    return f"{in_markup(feature['name'])} {feature['contribution']:.0%} ({actual}, expected {feature['expected']:.4g})"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
