"""The report's sections on the gate: comparison with the champion, injected faults, reconstruction of readings."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from training.report.collect import Report
from training.report.html import figure
from training.report.svg_plot import WIDTH, Axis, Plot, text
from worker.models import ModelCard

WIDE: Final = 2 * WIDTH
BAR_HEIGHT: Final = 12
_LEVELS: Final = (0.1, 0.01, 0.001)  # p-values between which the colour of a point changes
RAREST: Final = 1e-12  # the lowest p-value that is shown


def comparison(card: ModelCard, report: Report) -> str:
    """Return the section that compares how the new model and the champion keep their promised rates."""
    kept, alarms = report.kept, card.quality["gate"]["false_alarms"]
    low = min(kept.p_value)
    axis = Axis(low, 1.0, "p-value", log=True)
    observed = [*kept.observed, *(kept.champion or ())]
    plot = Plot(axis, Axis(min([low, *(v for v in observed if v > 0)]), 1.0, "rows with at most it", log=True))
    plot.line([(low, low), (1.0, 1.0)], "grey")
    plot.down_at(alarms["promised"], f"asked {alarms['promised']:.2g}")
    if kept.champion is not None:
        plot.line(_above_zero(kept.p_value, kept.champion), "orange")
    plot.line(_above_zero(kept.p_value, kept.observed), "blue")
    names = [("this model", "blue"), *([("champion", "orange")] if kept.champion is not None else [])]
    pictures = [
        figure(
            legend_of([*names, ("as promised", "grey")]) + plot.svg("observed shares by promised p-value"),
            "Of the gate's rows, which no model was fitted to: p-values promised and observed. Above the grey line are"
            " more alarms than promised.",
        )
    ]
    if report.cloud is not None:
        pictures.append(_cloud(card, report.cloud.champion, report.cloud.p_value))
    sentence = (
        "There was no champion that could score these rows."
        if report.cloud is None
        else f"This model against {card.parent}, the champion then, on the same rows."
    )
    return section("comparison", "Champion and challenger", sentence, pictures)


def _above_zero(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    return [point for point in zip(x, y, strict=True) if point[1] > 0]


def _cloud(card: ModelCard, champion_p_values: Sequence[float], challenger_p_values: Sequence[float]) -> str:
    alarms = card.quality["gate"]["false_alarms"]
    # Earlier releases have the promised rates alone, which were those of the thresholds.
    named = alarms.get("expected", alarms["promised"])
    named_by_champion = alarms.get("champion_expected", alarms["champion_promised"])
    lowest = max(min((*champion_p_values, *challenger_p_values, named)), RAREST)  # what is rarer lies at the edge
    x, y = Axis(lowest, 1.0, "p-value by the champion", log=True), Axis(lowest, 1.0, "p-value by this model", log=True)
    plot = Plot(x, y)
    plot.line([(lowest, lowest), (1.0, 1.0)], "grey")
    plot.dots(list(zip(champion_p_values, challenger_p_values, strict=True)), "blue", 1.8)
    plot.across_at(named, "below: named by this model")
    plot.down_at(named_by_champion, "left: named by the champion")
    caption = (
        f"Rows of the gate, the rarest all. Named by this model alone: {alarms['only_challenger']:,}; by the champion"
        f" alone: {alarms['only_champion']:,}."
    )
    legend = legend_of([("a row", "blue"), ("alike to both", "grey")])
    return figure(legend + plot.svg("p-values by this model and the champion, row by row"), caption)


def injected_faults(card: ModelCard) -> str:
    """Return the section on injected faults that were found."""
    injected = card.quality["gate"]["injected"]
    by_kind = {
        "recall": "Share of the rows with a fault that are over the threshold.",
        "roc_auc": "ROC-AUC: how surely a row with a fault scores above a normal one; 50% is chance.",
    }
    sentence = (
        "Faults of known size are put into the gate's rows, into a tenth of the features; sizes are in standard"
        " deviations of a reading."
    )
    if "difference" in injected:
        by = "share found" if injected["compared_by"] == "recall" else "ROC-AUC"
        sentence += f" The gate compares the {by}: {injected['difference']:+.1%} against the champion in the mean."
    pictures = [_found(injected["faults"], key, caption) for key, caption in by_kind.items()]
    return section("faults", "Injected faults", sentence, pictures)


def _found(faults: Sequence[dict[str, Any]], key: str, caption: str) -> str:
    rival = any(f"champion_{key}" in fault for fault in faults)
    high = (2 * BAR_HEIGHT if rival else BAR_HEIGHT) + 6
    plot = Plot(Axis(0, 1), None, WIDTH, 30 + high * len(faults), left=92, bottom=24, top=4, right=46)
    for i, fault in enumerate(faults):
        y = plot.top + i * high + 3
        size = f" {fault['size']:g} sd" if fault["size"] else ""
        plot.label(plot.left - 6, y + (high - 6) / 2 + 4, f"{fault['kind']}{size}", "end")
        _bar(
            plot=plot,
            y=y,
            value=fault[key],
            kind="blue",
            tooltip=f"this model: {fault[key]:.1%}",
            label=f"{fault[key]:.0%}",
        )
        if rival:
            champion_value = fault[f"champion_{key}"]
            _bar(
                plot=plot,
                y=y + BAR_HEIGHT,
                value=champion_value,
                kind="orange",
                tooltip=f"champion: {champion_value:.1%}",
                label=f"{champion_value:.0%}",
            )
    legend = legend_of([("this model", "blue"), *([("champion", "orange")] if rival else [])])
    return figure(legend + plot.svg(caption), caption)


def _bar(plot: Plot, y: float, value: float, kind: str, tooltip: str, label: str) -> None:
    """Draw a bar; `tooltip` shows where a mouse rests."""
    room = plot.right - plot.left
    plot.box(plot.left, y, room, BAR_HEIGHT - 2, "track", opacity=0.45)
    plot.box(x=plot.left, y=y, width=room * plot.x.at(value), height=BAR_HEIGHT - 2, kind=kind, tooltip=tooltip)
    plot.label(plot.right + 5, y + BAR_HEIGHT - 2, label)


def rebuilding(report: Report) -> str:
    """Return the section on how well each feature is rebuilt."""
    features = report.features
    high = BAR_HEIGHT + 5
    shown = [feature for feature in features.worst if feature.error is not None]
    errors = [feature.error or 0.0 for feature in shown]
    x = Axis(0, min(max([1.0, *errors]), 2.0))  # beyond, a number says it
    plot = Plot(x, None, WIDTH, 30 + high * max(len(shown), 1), left=140, bottom=24, top=4, right=46)
    for i, (feature, error) in enumerate(zip(shown, errors, strict=True)):
        y = plot.top + i * high + 3
        plot.label(plot.left - 6, y + BAR_HEIGHT - 2, shortened(feature.name, 20), "end")
        missing = f"; {feature.missing:.0%} of the readings not known" if feature.missing >= 0.005 else ""
        _bar(
            plot=plot,
            y=y,
            value=error,
            kind="blue",
            tooltip=f"{feature.name}: error {error:.3g} sd{missing}",
            label=f"{error:.2f}",
        )
    legend = legend_of([("error of the feature, in standard deviations", "blue")])
    still = len(features.worst) - len(shown)
    caption = f"The worst {len(shown)} of {features.of:,} features." if features.of > len(shown) else "All features."
    caption += f" Median {features.median:.2f}." if features.median is not None else ""
    caption += f" {still} more do not change." if still else ""
    return section(
        "features",
        "How well it rebuilds the readings",
        "Bars: how far off the model is about a feature, as the root mean square of the error in standard deviations; 0"
        " is perfect, 1 no better than the mean. Points: the codes of held-out rows, flattened to the two directions in"
        " which they differ most.",
        [figure(legend + plot.svg("errors of the features, the worst first"), caption), _codes(report)],
    )


def shortened(name: str, max_length: int) -> str:
    """Shorten a name in its middle, since sensors of one kind differ at the end."""
    return name if len(name) <= max_length else f"{name[: max_length // 2]}…{name[max_length // 2 + 1 - max_length :]}"


def legend_of(names: Iterable[tuple[str, str]]) -> str:
    """Return a legend: pairs of a name and its class of colour."""
    keys = "".join(f'<span><i class="{kind}"></i>{text(name)}</span>' for name, kind in names)
    return f'<p class="legend">{keys}</p>'


def section(key: str, title: str, sentence: str, pictures: Sequence[str]) -> str:
    """Return a section of the page: a title, a sentence, and pictures."""
    return (
        f'<section id="{key}">\n<h2>{text(title)}</h2>\n<p>{text(sentence)}</p>\n'
        f'<div class="pictures">\n{"".join(pictures)}</div>\n</section>\n'
    )


def _codes(report: Report) -> str:
    codes = report.codes
    share = [f"{part:.0%}" for part in codes.share]
    plot = Plot(
        Axis.over(_most_of(codes.x), f"first direction, {share[0]} of the variance", margin=0.2),
        Axis.over(_most_of(codes.y), f"second, {share[1]}", margin=0.2),
        WIDTH,
        340,
    )
    kinds = ("p0", "p1", "p2", "p3")
    for level, kind in enumerate(kinds):  # the rarest last, on top
        groups = [
            (x, y)
            for x, y, p in zip(codes.x, codes.y, codes.p_value, strict=True)
            if sum(p < bound for bound in _LEVELS) == level
        ]
        plot.dots(groups, kind, 2.0 + 0.4 * level)
    legend = legend_of([("p ≥ 0.1", "p0"), ("0.01 to 0.1", "p1"), ("0.001 to 0.01", "p2"), ("below", "p3")])
    numbers = f"{codes.of:,} numbers each"
    caption = f"Codes ({numbers}) of held-out rows by p-value. The rarest are all there, far ones at the edge."
    return figure(legend + plot.svg("codes of held-out rows in two dimensions"), caption)


def _most_of(values: Sequence[float]) -> Sequence[float]:
    """Return the values without a few that lie far out: they must not squeeze the others together."""
    ordered = sorted(values)
    return ordered[len(ordered) // 50 : len(ordered) - len(ordered) // 50]
