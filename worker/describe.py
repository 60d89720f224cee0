"""Events and incidents as one line of rich markup each."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.markup import escape

NAMED = 3  # sensors, and related entities, that a line names


def anomaly(event: dict[str, Any]) -> str:
    """When, what, how sure, and the guiltiest sensors. Raises KeyError and the like for what is no anomaly event."""
    data = event["data"]
    sensors = ", ".join(_sensor(feature) for feature in data["features"][:NAMED])
    return (
        f"[dim]{_text(data['time'])}[/dim] {_severity(data['severity'])} {_entity(data['entity'])}"
        f"  score {data['score']:.2f} (over {data['threshold']:.2f})  p {data['p_value']:.1e}  {sensors}"
        f"  [dim]{_text(event['id'])}[/dim]"
    )


def incident(event: dict[str, Any], related: Sequence[str]) -> str:
    """When, what, since when or for how long, how sure, the guiltiest sensors, and whose incidents are `related`."""
    data = event["data"]
    seconds = (datetime.fromisoformat(data["latest"]) - datetime.fromisoformat(data["started"])).total_seconds()
    sensors = ", ".join(f"{_text(f['name'])} {f['contribution']:.0%}" for f in data["features"][:NAMED])
    models = ", ".join(_text(f"{m['name']}/{m['version']}") for m in data["models"])
    parts = [
        f"[dim]{_text(data['latest'])}[/dim] {_text(data['state']):<6} {_severity(data['severity'])}"
        f" {_entity(data['entity'])}",
        f"{'lasted' if data['state'] == 'closed' else 'for'} {_duration(seconds)}, {data['vectors']:,} vectors",
        f"p {data['peak_p_value']:.1e}",
        sensors,
        f"by {models}",
    ]
    if related:
        more = f" and {len(related) - NAMED} more" if len(related) > NAMED else ""
        parts.append(f"[bold]related: {', '.join(map(_text, related[:NAMED]))}{more}[/bold]")
    if data["notify"]:
        parts.append("[bold red]notify[/bold red]")
    return "  ".join([*parts, f"[dim]{_text(data['incident'])}[/dim]"])


def _text(hostile: Any) -> str:
    """As it is, but for what a terminal or rich would obey."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(hostile)))


def _severity(severity: str) -> str:
    colour = "red" if severity == "alarm" else "yellow"
    return f"[{colour}]{_text(severity):<7}[/{colour}]"


def _entity(entity: Any) -> str:
    return f"[bold]{_text(entity or '-')}[/bold]"


def _sensor(feature: dict[str, Any]) -> str:
    actual = "missing" if feature["missing"] else f"{feature['actual']:.4g}"
    return f"{_text(feature['name'])} {feature['contribution']:.0%} ({actual}, expected {feature['expected']:.4g})"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
