"""The page of a report (training/report.py), drawn from the model card and what training/report_data.py collected."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from training.page import document, figure
from training.plot import HEIGHT, WIDTH, Axis, Plot, number, text
from training.report_data import Report, Worst
from worker.events import iso
from worker.models import ModelCard

_WIDE: Final = 2 * WIDTH
_LANE: Final = 15  # height of a strip below the timeline
_BAR: Final = 12
_RAREST: Final = 1e-12  # p-value that is told
_LEVELS: Final = (0.1, 0.01, 0.001)  # p-values between which the colour of a point changes
_USES: Final = {
    "fitted": "fitted to",
    "calibrated": "held out: set the threshold",
    "gate": "held out: the gate's",
    "left out": "left out",
}
_KNOWN: Final = {
    "named": "named anomalies",
    "incident": "in incidents",
    "dismissed": "dismissed",
    "confirmed": "confirmed",
    "faulty": "faulty sensors",
}

_STYLE: Final = """
:root { --bad: #b3261e; --panel: #f6f7f9; --blue: #2f6fd0; --orange: #d9730d; --green: #1f8a4c; --purple: #8250c4;
  --grey: #b4bac4; --red: #d03434; --p0: #b3c2da; --p1: #4f86d9; --p2: #e09a1f }
@media (prefers-color-scheme: dark) {
  :root { --bad: #ff8a80; --panel: #1c2026; --blue: #6ea8ff; --orange: #ff9f4a; --green: #4fc784; --purple: #b794f6;
    --grey: #59616d; --red: #ff6b6b; --p0: #4b5b73; --p1: #6ea8ff; --p2: #ffbf47 }
}
body { max-width: 60rem } h2 { font-size: 1.25rem } h2 + p { margin-top: 0; max-width: 46rem }
.version { color: var(--faint); margin: .2rem 0 1rem; overflow-wrap: anywhere }
.verdict { border-left: .3rem solid var(--good); background: var(--panel); padding: .7rem 1rem; border-radius: .3rem }
.verdict.no { border-color: var(--bad) } .verdict strong { color: var(--good) } .verdict.no strong { color: var(--bad) }
.verdict ul { margin: .3rem 0 0; padding-left: 1.2rem } .verdict p { margin: 0 }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .7rem 1.2rem; margin: 1.2rem 0 }
dt { color: var(--faint); font-size: .8rem } dd { margin: 0; overflow-wrap: anywhere }
.legend { margin: 0 0 .2rem; font-size: .8rem; color: var(--faint); display: flex; flex-wrap: wrap; gap: .1rem .9rem }
.legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: .15rem; margin-right: .3rem;
  background: currentColor; vertical-align: -.05rem }
figure { flex: 1 1 20rem; min-width: 0 } figure:not(.row) { max-width: 29.5rem } figcaption { margin-top: .3rem }
figure.row svg { min-width: 50rem } .pictures > .wide { flex: 1 1 100%; min-width: 0 }
table { font-size: .875rem } td { vertical-align: top; overflow-wrap: anywhere }
td b { font-weight: normal; display: none }
td.n, th.n { text-align: right } td.n, td.when, th.n { white-space: nowrap }
@media (max-width: 42rem) {
  tr { display: block; padding: .6rem 0; border-bottom: 1px solid var(--line) } tr:first-child { display: none }
  td { display: block; padding: 0; border: 0 } td.n { text-align: left } td b { display: inline; color: var(--faint) }
}
svg { display: block } svg text { font: 11px system-ui, sans-serif; fill: var(--faint) }
svg text.told { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 3px }
.grid { stroke: var(--line); stroke-width: 1 } .mark { stroke: var(--red); stroke-dasharray: 5 4; fill: none }
.even { stroke: var(--faint); stroke-dasharray: 2 4; fill: none }
.line { fill: none; stroke-width: 2; stroke-linejoin: round } .line.dash { stroke-dasharray: 6 4 }
.dots { fill: none; stroke-linecap: round; opacity: .8 }
.area { shape-rendering: crispEdges } .line, .dots { stroke: currentColor } rect, .area { fill: currentColor }
.blue { color: var(--blue) } .orange { color: var(--orange) } .green { color: var(--green) }
.purple { color: var(--purple) } .grey { color: var(--grey) } .red { color: var(--red) } .track { color: var(--line) }
.p0 { color: var(--p0) } .p1 { color: var(--p1) } .p2 { color: var(--p2) } .p3 { color: var(--red) }
"""


def page(card: ModelCard, report: Report, role: str) -> str:
    """The whole page; `role` is what the version is now, or was made to be."""
    sections = (
        _rows(card, report),
        _learning(card, report),
        _comparison(card, report),
        _faults(card),
        _rebuilding(report),
        _worst(card, report),
    )
    libraries = ", ".join(f"{name} {version}" for name, version in card.libraries.items())
    return document(
        f"Offnormal: a training of {card.name}, {card.version}",
        _STYLE,
        _head(card, role)
        + "".join(sections)
        + f"<footer><p>Seed {text(card.seed)}; {text(libraries)}. Times are UTC.</p></footer>\n",
    )


def _head(card: ModelCard, role: str) -> str:
    quality, rate, trained = card.quality, card.quality["false_alarm_rate"], card.trained_on
    asked = f" (asked: {rate['asked']:.2g})" if rate["promised"] > rate["asked"] else ""
    facts = {
        "why": trained["why"],
        "from": _moment(trained["from"]),
        "to": _moment(trained["to"]),
        "made": _moment(card.created),
        "in place of": card.parent or "none: a first model",
        "kind": card.kind + (f", windows of {card.window}" if card.window > 1 else ""),
        "features": f"{len(card.features):,}",
        "entities with a scaler of their own": f"{len(card.entities):,}" if card.entities else "",
        "rows seen": f"{card.rows['seen']:,}; {card.rows['sampled']:,} of them sampled",
        "fitted to / held out / gate": f"{card.rows['fitted']:,} / {card.rows['held_out']:,} / {card.rows['gate']:,}",
        "false alarms promised": f"{rate['promised']:.2g} of normal vectors{asked}",
        "threshold": f"{quality['threshold']:.3f}",
        "vectors a day": f"{quality['vectors_per_day']:,.0f}" if quality["vectors_per_day"] else "",
    }
    told = "".join(f"<div><dt>{text(name)}</dt><dd>{text(fact)}</dd></div>\n" for name, fact in facts.items() if fact)
    return (
        f'<h1>A training of {text(card.name)}</h1>\n<p class="version">{text(card.version)}'
        f"{f', {text(role)}' if role else ''}</p>\n{_verdict(card)}<dl>\n{told}</dl>\n"
    )


def _verdict(card: ModelCard) -> str:
    """What the gate said, and its figures in a line each."""
    gate = card.quality["gate"]
    alarms, injected, confirmed = gate["false_alarms"], gate["injected"], gate.get("confirmed")
    low, high = alarms["interval"]
    told = [
        f"False alarms: {alarms['promised']:.2g} promised, {alarms['observed']:.2g} observed on {gate['rows']:,} rows"
        f" (95%: {low:.2g} to {high:.2g})" + (f"; champion {alarms['champion']:.2g}" if "champion" in alarms else "")
    ]
    found = [fault["recall"] for fault in injected["faults"]]
    told.append(f"Injected faults: finds {sum(found) / max(len(found), 1):.0%} of them")
    if "difference" in injected:
        measure = "found" if injected["compared_by"] == "recall" else "ROC-AUC"
        told[-1] += f"; {measure} {injected['difference']:+.1%} against the champion"
    if confirmed is not None:
        told.append(f"Confirmed anomalies: finds {confirmed['recall']:.0%} of {confirmed['rows']:,}")
        told[-1] += f"; champion {confirmed['champion_recall']:.0%}" if "champion_recall" in confirmed else ""
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in gate["reasons"])
    figures = "".join(f"<p>{text(line)}.</p>" for line in told)
    says = "The gate lets it pass." if gate["passed"] else "The gate refuses it."
    return (
        f'<section id="gate"><div class="verdict{"" if gate["passed"] else " no"}"><p><strong>{says}</strong></p>'
        f"{f'<ul>{reasons}</ul>' if reasons else ''}{figures}</div></section>\n"
    )


def _rows(card: ModelCard, report: Report) -> str:
    told, regime, new = report.timeline, card.trained_on.get("regime"), card.trained_on.get("new_regime")
    lanes = {name: told.known[name] for name in _KNOWN}
    kinds = dict(zip(_USES, ("blue", "green", "purple", "grey"), strict=True))
    totals = [sum(counts) for counts in zip(*(told.uses[use] for use in _USES), strict=True)]
    x = Axis(told.begin / 1000, max(told.end, told.begin + 1) / 1000, time=True)
    top, lanes_high = 196, _LANE * len(lanes)
    plot = Plot(
        x, Axis(0, max([*totals, 1]) * 1.15, "rows"), _WIDE, top + lanes_high + 34, left=108, bottom=lanes_high + 34
    )
    step = (plot.right - plot.left) / len(totals)
    below = [0.0] * len(totals)
    for use, kind in kinds.items():
        area = ""
        for i, count in enumerate(told.uses[use]):
            (_, low), (_, high) = plot.place(x.low, below[i]), plot.place(x.low, below[i] + count)
            below[i] += count
            # Up to the very place where the next one begins, or there is a seam.
            left, right = plot.left + i * step, plot.left + (i + 1) * step
            area += f"M{left:.1f} {low:.1f}V{high:.1f}H{right:.1f}V{low:.1f}z" if count else ""
        plot.drawn.append(f'<path class="area {kind}" d="{area}"/>' if area else "")
    for lane, (name, counts) in enumerate(lanes.items()):
        y = plot.bottom + 22 + lane * _LANE
        plot.label(plot.left - 6, y + 9, _KNOWN[name], "end")
        plot.box(plot.left, y, plot.right - plot.left, _LANE - 4, "track", opacity=0.45)
        for i, (count, total) in enumerate(zip(counts, totals, strict=True)):
            if count:  # even a single row can be seen
                share = 0.35 + 0.65 * min(count / max(total, 1), 1)
                told_there = f"{_KNOWN[name]}: {count:,} of {total:,} rows"
                plot.box(plot.left + i * step, y, step, _LANE - 4, _LANES[name], told_there, share)
    if told.since is not None:
        plot.down_at(told.since / 1000, "new regime begins" if new else "regime begins" if regime else "drift")
    legend = _legend([(_USES[use], kind) for use, kind in kinds.items()])
    sums = ", ".join(f"{sum(counts):,} {_KNOWN[name]}" for name, counts in lanes.items() if sum(counts))
    caption = f"Strips: what is known of the rows, the stronger the more of them. {sums or 'Nothing is known of any'}."
    picture = f'{legend}<div class="wide">{plot.svg("rows over the time of the window, by their use")}</div>'
    sentence = (
        "The rows of the training window by their time. What was published as an anomaly or lies in an incident is not"
        " fitted to unless a person has dismissed it; what is confirmed or of a faulty sensor is used for nothing."
    )
    if told.since is not None:
        sentence += (
            " The plant has changed: what came since teaches most, and alone sets the threshold."
            if regime
            else " There was a drift: what came since teaches as much as what was before."
        )
    return _section("rows", "Rows used and left out", sentence, [figure(picture, caption, row=True)])


_LANES: Final = {"named": "orange", "incident": "red", "dismissed": "green", "confirmed": "red", "faulty": "purple"}


def _learning(card: ModelCard, report: Report) -> str:
    return _section(
        "learning",
        "Learning and the threshold",
        "Both losses should fall and stay together; the weights of the best held-out loss are kept. The threshold is"
        " where the fit of the scores' tail meets the false-alarm budget.",
        [_losses(report), _tail(card, report)],
    )


def _losses(report: Report) -> str:
    told = report.training
    plot = Plot(
        Axis.over(told.epoch, "epochs"), Axis.over((*told.loss, *told.held_out), "loss", log=True), WIDTH, HEIGHT
    )
    plot.line(zip(told.epoch, told.loss, strict=True), "blue")
    plot.line(zip(told.epoch, told.held_out, strict=True), "orange")
    best = min(range(len(told.held_out)), key=told.held_out.__getitem__, default=None)
    if best is not None:
        plot.dots([(told.epoch[best], told.held_out[best])], "orange", 4)
    legend = _legend([("training", "blue"), ("held-out", "orange")])
    return figure(legend + plot.svg("training and held-out loss"), "Losses by epoch; the dot is what was kept.")


def _tail(card: ModelCard, report: Report) -> str:
    told, rate, threshold = report.tail, card.quality["false_alarm_rate"], card.quality["threshold"]
    shown = [(score, share) for score, share in zip(told.score, told.share, strict=True) if score > 0]
    scores = [score for score, _ in shown]
    x = Axis.over([*scores, *told.fit_score, threshold], "score", log=True)
    y = Axis.over([*(share for _, share in shown), rate["promised"], rate["asked"]], "share with at least it", log=True)
    plot = Plot(x, y)
    plot.across_at(rate["promised"], f"promised {rate['promised']:.2g}")
    if rate["asked"] < rate["promised"] * 0.6:
        plot.across_at(rate["asked"], f"asked {rate['asked']:.2g}", "even")
    plot.down_at(threshold, f"threshold {threshold:.2f}")
    fitted = [p for p in zip(told.fit_score, told.fit_share, strict=True) if p[1] >= y.low and p[0] <= x.high]
    plot.dots(shown, "blue", 1.8)
    plot.line(fitted, "orange dash")
    legend = _legend([("held-out rows", "blue"), ("fit of the tail (generalised Pareto)", "orange")])
    caption = f"How many of the {told.rows:,} rows that set the threshold score so high, or higher."
    return figure(legend + plot.svg("share of held-out rows by score, with the fit of the tail"), caption)


def _comparison(card: ModelCard, report: Report) -> str:
    told, alarms = report.kept, card.quality["gate"]["false_alarms"]
    low = min(told.p_value)
    axis = Axis(low, 1.0, "p-value", log=True)
    observed = [*told.observed, *(told.champion or ())]
    plot = Plot(axis, Axis(min([low, *(v for v in observed if v > 0)]), 1.0, "rows with at most it", log=True))
    plot.line([(low, low), (1.0, 1.0)], "grey")
    plot.down_at(alarms["promised"], f"promised {alarms['promised']:.2g}")
    if told.champion is not None:
        plot.line(_above_zero(told.p_value, told.champion), "orange")
    plot.line(_above_zero(told.p_value, told.observed), "blue")
    names = [("this model", "blue"), *([("champion", "orange")] if told.champion is not None else [])]
    pictures = [
        figure(
            _legend([*names, ("as promised", "grey")]) + plot.svg("observed shares by promised p-value"),
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
    return _section("comparison", "Champion and challenger", sentence, pictures)


def _above_zero(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    return [point for point in zip(x, y, strict=True) if point[1] > 0]


def _cloud(card: ModelCard, theirs: Sequence[float], ours: Sequence[float]) -> str:
    alarms = card.quality["gate"]["false_alarms"]
    lowest = max(min((*theirs, *ours, alarms["promised"])), _RAREST)  # what is rarer lies at the edge
    x, y = Axis(lowest, 1.0, "p-value by the champion", log=True), Axis(lowest, 1.0, "p-value by this model", log=True)
    plot = Plot(x, y)
    plot.line([(lowest, lowest), (1.0, 1.0)], "grey")
    plot.dots(list(zip(theirs, ours, strict=True)), "blue", 1.8)
    plot.across_at(alarms["promised"], "below: named by this model")
    plot.down_at(alarms["champion_promised"], "left: named by the champion")
    caption = (
        f"Rows of the gate, the rarest all. Named by this model alone: {alarms['only_challenger']:,}; by the champion"
        f" alone: {alarms['only_champion']:,}."
    )
    legend = _legend([("a row", "blue"), ("alike to both", "grey")])
    return figure(legend + plot.svg("p-values by this model and the champion, row by row"), caption)


def _faults(card: ModelCard) -> str:
    injected = card.quality["gate"]["injected"]
    told = {
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
    pictures = [_found(injected["faults"], key, caption) for key, caption in told.items()]
    return _section("faults", "Injected faults", sentence, pictures)


def _found(faults: Sequence[dict[str, Any]], key: str, caption: str) -> str:
    rival = any(f"champion_{key}" in fault for fault in faults)
    high = (2 * _BAR if rival else _BAR) + 6
    plot = Plot(Axis(0, 1), None, WIDTH, 30 + high * len(faults), left=92, bottom=24, top=4, right=46)
    for i, fault in enumerate(faults):
        y = plot.top + i * high + 3
        size = f" {fault['size']:g} sd" if fault["size"] else ""
        plot.label(plot.left - 6, y + (high - 6) / 2 + 4, f"{fault['kind']}{size}", "end")
        _bar(plot, y, fault[key], "blue", f"this model: {fault[key]:.1%}", f"{fault[key]:.0%}")
        if rival:
            theirs = fault[f"champion_{key}"]
            _bar(plot, y + _BAR, theirs, "orange", f"champion: {theirs:.1%}", f"{theirs:.0%}")
    legend = _legend([("this model", "blue"), *([("champion", "orange")] if rival else [])])
    return figure(legend + plot.svg(caption), caption)


def _bar(plot: Plot, y: float, value: float, kind: str, told: str, label: str) -> None:
    """`told` shows where a mouse rests."""
    room = plot.right - plot.left
    plot.box(plot.left, y, room, _BAR - 2, "track", opacity=0.45)
    plot.box(plot.left, y, room * plot.x.at(value), _BAR - 2, kind, told)
    plot.label(plot.right + 5, y + _BAR - 2, label)


def _rebuilding(report: Report) -> str:
    told = report.features
    high = _BAR + 5
    shown = [feature for feature in told.worst if feature.error is not None]
    errors = [feature.error or 0.0 for feature in shown]
    x = Axis(0, min(max([1.0, *errors]), 2.0))  # beyond, a number says it
    plot = Plot(x, None, WIDTH, 30 + high * max(len(shown), 1), left=140, bottom=24, top=4, right=46)
    for i, (feature, error) in enumerate(zip(shown, errors, strict=True)):
        y = plot.top + i * high + 3
        plot.label(plot.left - 6, y + _BAR - 2, _shortened(feature.name, 20), "end")
        missing = f"; {feature.missing:.0%} of the readings not known" if feature.missing >= 0.005 else ""
        _bar(plot, y, error, "blue", f"{feature.name}: error {error:.3g} sd{missing}", f"{error:.2f}")
    legend = _legend([("error of the feature, in standard deviations", "blue")])
    still = len(told.worst) - len(shown)
    caption = f"The worst {len(shown)} of {told.of:,} features." if told.of > len(shown) else "All features."
    caption += f" Median {told.median:.2f}." if told.median is not None else ""
    caption += f" {still} more do not change." if still else ""
    return _section(
        "features",
        "How well it rebuilds the readings",
        "Bars: how far off the model is about a feature, as the root mean square of the error in standard deviations; 0"
        " is perfect, 1 no better than the mean. Points: the codes of held-out rows, flattened to the two directions in"
        " which they differ most.",
        [figure(legend + plot.svg("errors of the features, the worst first"), caption), _codes(report)],
    )


def _shortened(name: str, most: int) -> str:
    """In the middle: sensors of one kind differ at the end."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[most // 2 + 1 - most :]}"


def _codes(report: Report) -> str:
    told = report.codes
    share = [f"{part:.0%}" for part in told.share]
    plot = Plot(
        Axis.over(_most_of(told.x), f"first direction, {share[0]} of the variance", margin=0.2),
        Axis.over(_most_of(told.y), f"second, {share[1]}", margin=0.2),
        WIDTH,
        340,
    )
    kinds = ("p0", "p1", "p2", "p3")
    for level, kind in enumerate(kinds):  # the rarest last, on top
        of = [
            (x, y)
            for x, y, p in zip(told.x, told.y, told.p_value, strict=True)
            if sum(p < bound for bound in _LEVELS) == level
        ]
        plot.dots(of, kind, 2.0 + 0.4 * level)
    legend = _legend([("p ≥ 0.1", "p0"), ("0.01 to 0.1", "p1"), ("0.001 to 0.01", "p2"), ("below", "p3")])
    caption = (
        f"Codes ({told.of:,} numbers each) of held-out rows by p-value; the rarest are all there, far ones at the edge."
    )
    return figure(legend + plot.svg("codes of held-out rows in two dimensions"), caption)


def _most_of(values: Sequence[float]) -> Sequence[float]:
    """A few that lie far out must not squeeze the others together."""
    ordered = sorted(values)
    return ordered[len(ordered) // 50 : len(ordered) - len(ordered) // 50]


def _worst(card: ModelCard, report: Report) -> str:
    body = "".join(map(_worst_row, report.worst))
    table = (
        '<div class="wide"><table>\n<tr><th>time</th><th>entity</th><th>use</th><th class="n">score</th>'
        f'<th class="n">p-value</th><th>guiltiest features, with their share of the evidence</th></tr>\n{body}'
        "</table></div>\n"
    )
    sentence = (
        f"Of {report.looked_at:,} rows that were not fitted to, those that score highest; of an entity and a part of"
        f" the time only the worst one. The threshold is {card.quality['threshold']:.2f}."
    )
    return _section("worst", "The worst rows", sentence, [table])


def _worst_row(row: Worst) -> str:
    guilty = "<br>".join(
        f"{text(f.name)}: read {'?' if f.actual is None else number(f.actual)}, expected {number(f.expected)}"
        f" ({f.share:.0%})"
        for f in row.features
    )
    # What is rarer nobody can know from so many rows.
    p_value = f"{row.p_value:.1e}" if row.p_value >= _RAREST else f"&lt; {_RAREST:.0e}"
    known = "".join(f"<br>{text(_KNOWN.get(word, word))}" for word in row.known)
    return (
        f'<tr><td class="when">{text(_moment(iso(row.time)))}</td><td>{text(row.entity)}</td>'
        f'<td>{text(row.use)}{known}</td><td class="n"><b>score</b> {row.score:.2f}</td>'
        f'<td class="n"><b>p-value</b> {p_value}</td>'
        f"<td>{guilty}</td></tr>\n"
    )


def _moment(told: str) -> str:
    """An ISO time, to the second."""
    return told[:19].replace("T", " ")


def _legend(names: Iterable[tuple[str, str]]) -> str:
    keys = "".join(f'<span><i class="{kind}"></i>{text(name)}</span>' for name, kind in names)
    return f'<p class="legend">{keys}</p>'


def _section(key: str, title: str, sentence: str, pictures: Sequence[str]) -> str:
    return (
        f'<section id="{key}">\n<h2>{text(title)}</h2>\n<p>{text(sentence)}</p>\n'
        f'<div class="pictures">\n{"".join(pictures)}</div>\n</section>\n'
    )
