"""The page of a report (report.py), drawn from the model card and what collect.py collected."""

from typing import Final

from training.report.collect import Report, Worst
from training.report.false_alarms import false_alarms_text
from training.report.html import document, figure
from training.report.sections import RAREST, WIDE, comparison, injected_faults, legend_of, rebuilding, section
from training.report.style import STYLE
from training.report.svg_plot import HEIGHT, WIDTH, Axis, Plot, number, text
from worker.blocks.timestamps import iso
from worker.models import ModelCard

_LANE: Final = 15  # height of a strip below the timeline


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


def page(card: ModelCard, report: Report, role: str) -> str:
    """Return the whole page; `role` is what the version is now, or was made to be."""
    sections = (
        _rows(card, report),
        _learning(card, report),
        comparison(card, report),
        injected_faults(card),
        rebuilding(report),
        _worst(card, report),
    )
    libraries = ", ".join(f"{name} {version}" for name, version in card.libraries.items())
    return document(
        f"Offnormal: a training of {card.name}, {card.version}",
        STYLE,
        _head(card, role)
        + "".join(sections)
        + f"<footer><p>Seed {text(card.seed)}; {text(libraries)}. Times are UTC.</p></footer>\n",
    )


def _head(card: ModelCard, role: str) -> str:
    quality, rate, trained = card.quality, card.quality["false_alarm_rate"], card.trained_on
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
        "false alarms": f"of normal vectors: {false_alarms_text(rate)}",
        "threshold": f"{quality['threshold']:.3f}",
        "vectors a day": f"{quality['vectors_per_day']:,.0f}" if quality["vectors_per_day"] else "",
    }
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(fact)}</dd></div>\n" for name, fact in facts.items() if fact)
    return (
        f'<h1>A training of {text(card.name)}</h1>\n<p class="version">{text(card.version)}'
        f"{f', {text(role)}' if role else ''}</p>\n{_verdict(card)}<dl>\n{items}</dl>\n"
    )


def _verdict(card: ModelCard) -> str:
    """Return what the gate decided, and its figures in a line each."""
    gate = card.quality["gate"]
    alarms, injected, confirmed = gate["false_alarms"], gate["injected"], gate.get("confirmed")
    low, high = alarms["interval"]
    lines = [
        f"False alarms: {alarms['promised']:.2g} promised, {alarms['observed']:.2g} observed on {gate['rows']:,} rows"
        f" (95%: {low:.2g} to {high:.2g})" + (f"; champion {alarms['champion']:.2g}" if "champion" in alarms else "")
    ]
    recalls = [fault["recall"] for fault in injected["faults"]]
    lines.append(f"Injected faults: finds {sum(recalls) / max(len(recalls), 1):.0%} of them")
    if "difference" in injected:
        measure = "found" if injected["compared_by"] == "recall" else "ROC-AUC"
        lines[-1] += f"; {measure} {injected['difference']:+.1%} against the champion"
    if confirmed is not None:
        lines.append(f"Confirmed anomalies: finds {confirmed['recall']:.0%} of {confirmed['rows']:,}")
        lines[-1] += f"; champion {confirmed['champion_recall']:.0%}" if "champion_recall" in confirmed else ""
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in gate["reasons"])
    figures = "".join(f"<p>{text(line)}.</p>" for line in lines)
    says = "The gate lets it pass." if gate["passed"] else "The gate refuses it."
    return (
        f'<section id="gate"><div class="verdict{"" if gate["passed"] else " no"}"><p><strong>{says}</strong></p>'
        f"{f'<ul>{reasons}</ul>' if reasons else ''}{figures}</div></section>\n"
    )


def _rows(card: ModelCard, report: Report) -> str:
    timeline, regime, new = report.timeline, card.trained_on.get("regime"), card.trained_on.get("new_regime")
    lanes = {name: timeline.known[name] for name in _KNOWN}
    kinds = dict(zip(_USES, ("blue", "green", "purple", "grey"), strict=True))
    totals = [sum(counts) for counts in zip(*(timeline.uses[use] for use in _USES), strict=True)]
    x = Axis(timeline.begin / 1000, max(timeline.end, timeline.begin + 1) / 1000, time=True)
    top, lanes_high = 196, _LANE * len(lanes)
    plot = Plot(
        x, Axis(0, max([*totals, 1]) * 1.15, "rows"), WIDE, top + lanes_high + 34, left=108, bottom=lanes_high + 34
    )
    step = (plot.right - plot.left) / len(totals)
    below = [0.0] * len(totals)
    for use, kind in kinds.items():
        area = ""
        for i, count in enumerate(timeline.uses[use]):
            (_, low), (_, high) = plot.place(x.low, below[i]), plot.place(x.low, below[i] + count)
            below[i] += count
            # Each area ends exactly where the next one begins; otherwise a seam would show.
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
                plot.box(
                    x=plot.left + i * step,
                    y=y,
                    width=step,
                    height=_LANE - 4,
                    kind=_LANES[name],
                    tooltip=told_there,
                    opacity=share,
                )
    if timeline.since is not None:
        plot.down_at(timeline.since / 1000, "new regime begins" if new else "regime begins" if regime else "drift")
    legend = legend_of([(_USES[use], kind) for use, kind in kinds.items()])
    sums = ", ".join(f"{sum(counts):,} {_KNOWN[name]}" for name, counts in lanes.items() if sum(counts))
    caption = f"Strips: what is known of the rows, the stronger the more of them. {sums or 'Nothing is known of any'}."
    picture = f'{legend}<div class="wide">{plot.svg("rows over the time of the window, by their use")}</div>'
    sentence = (
        "The rows of the training window by their time. What was published as an anomaly or lies in an incident is not"
        " fitted to unless a person has dismissed it; what is confirmed or of a faulty sensor is used for nothing."
    )
    if timeline.since is not None:
        sentence += (
            " The plant has changed: what came since teaches most, and alone sets the threshold."
            if regime
            else " There was a drift: what came since teaches as much as what was before."
        )
    return section("rows", "Rows used and left out", sentence, [figure(picture, caption, row=True)])


_LANES: Final = {"named": "orange", "incident": "red", "dismissed": "green", "confirmed": "red", "faulty": "purple"}


def _learning(card: ModelCard, report: Report) -> str:
    return section(
        "learning",
        "Learning and the threshold",
        "Both losses should fall and stay together; the weights of the best held-out loss are kept. The threshold is"
        " where the fit of the scores' tail meets the false-alarm budget.",
        [_losses(report), _tail(card, report)],
    )


def _losses(report: Report) -> str:
    curve = report.training
    plot = Plot(
        Axis.over(curve.epoch, "epochs"), Axis.over((*curve.loss, *curve.held_out), "loss", log=True), WIDTH, HEIGHT
    )
    plot.line(zip(curve.epoch, curve.loss, strict=True), "blue")
    plot.line(zip(curve.epoch, curve.held_out, strict=True), "orange")
    best = min(range(len(curve.held_out)), key=curve.held_out.__getitem__, default=None)
    if best is not None:
        plot.dots([(curve.epoch[best], curve.held_out[best])], "orange", 4)
    legend = legend_of([("training", "blue"), ("held-out", "orange")])
    return figure(legend + plot.svg("training and held-out loss"), "Losses by epoch; the dot is what was kept.")


def _tail(card: ModelCard, report: Report) -> str:
    tail, rate, threshold = report.tail, card.quality["false_alarm_rate"], card.quality["threshold"]
    shown = [(score, share) for score, share in zip(tail.score, tail.share, strict=True) if score > 0]
    scores = [score for score, _ in shown]
    x = Axis.over([*scores, *tail.fit_score, threshold], "score", log=True)
    expected = rate.get("expected", rate["promised"])
    y = Axis.over([*(share for _, share in shown), expected, rate["asked"]], "share with at least it", log=True)
    plot = Plot(x, y)
    plot.across_at(rate["asked"], f"asked {rate['asked']:.2g}")
    if not 0.6 < rate["asked"] / expected < 1.7:
        plot.across_at(expected, f"expected {expected:.2g}", "even")
    plot.down_at(threshold, f"threshold {threshold:.2f}")
    fitted = [p for p in zip(tail.fit_score, tail.fit_share, strict=True) if p[1] >= y.low and p[0] <= x.high]
    plot.dots(shown, "blue", 1.8)
    plot.line(fitted, "orange dash")
    legend = legend_of([("held-out rows", "blue"), ("fit of the tail (generalised Pareto)", "orange")])
    caption = f"How many of the {tail.rows:,} rows that set the threshold score so high, or higher."
    return figure(legend + plot.svg("share of held-out rows by score, with the fit of the tail"), caption)


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
    return section("worst", "The worst rows", sentence, [table])


def _worst_row(row: Worst) -> str:
    guilty = "<br>".join(
        f"{text(f.name)}: read {'?' if f.actual is None else number(f.actual)}, expected {number(f.expected)}"
        f" ({f.share:.0%})"
        for f in row.features
    )
    # From so few rows, nobody can tell how much rarer than this a row is.
    p_value = f"{row.p_value:.1e}" if row.p_value >= RAREST else f"&lt; {RAREST:.0e}"
    flag_texts = "".join(f"<br>{text(_KNOWN.get(word, word))}" for word in row.known)
    return (
        f'<tr><td class="when">{text(_moment(iso(row.time)))}</td><td>{text(row.entity)}</td>'
        f'<td>{text(row.use)}{flag_texts}</td><td class="n"><b>score</b> {row.score:.2f}</td>'
        f'<td class="n"><b>p-value</b> {p_value}</td>'
        f"<td>{guilty}</td></tr>\n"
    )


def _moment(time_text: str) -> str:
    """Return an ISO time, to the second."""
    return time_text[:19].replace("T", " ")
