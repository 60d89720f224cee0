// Charts over time, by uPlot: in the page's colours, as wide as their place, with thresholds, shades and marks.

import { clock } from "./words.js";

const alive = new Set();
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function axis(more) {
  return {
    stroke: () => colour("muted"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: () => colour("grid"), width: 1 },
    ticks: { show: false },
    ...more,
  };
}

function times(u, splits) {
  const span = u.scales.x.max - u.scales.x.min;
  return splits.map((t) => clock(t, span < 900));
}

/** Powers of ten; where there are few of them, their doubles and fivefolds too. */
function decades(u, axis, least, most) {
  const low = Math.floor(Math.log10(least) + 1e-9), high = Math.ceil(Math.log10(most) - 1e-9);
  const steps = high - low > 2 ? [1] : [1, 2, 5], found = [];
  for (let e = low; e <= high; e++) for (const step of steps) found.push(Number(`${step}e${e}`));
  return found.filter((split) => split >= least && split <= most);
}

/** Calls `draw` within the plot's bounds, set up for small text. */
function within(u, draw) {
  const { ctx, bbox } = u, ratio = devicePixelRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  Object.assign(ctx, { font: `${11 * ratio}px system-ui, sans-serif`, textAlign: "left", textBaseline: "alphabetic", lineWidth: ratio });
  draw(ctx, bbox, ratio);
  ctx.restore();
}

/** Behind the lines: a band from..to, and marks {time, text}. */
function behind(told) {
  return (u) => within(u, (ctx, { left, top, width, height }, ratio) => {
    if (told.band) {
      const from = u.valToPos(told.band[0], "x", true), to = u.valToPos(told.band[1], "x", true);
      ctx.fillStyle = colour("shade");
      ctx.fillRect(from - ratio, top, Math.max(to - from, 2 * ratio) + ratio, height);
    }
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    let free = -Infinity;
    for (const mark of told.marks ?? []) {
      const x = Math.round(u.valToPos(mark.time, "x", true));
      if (x < left || x > left + width) continue;
      ctx.strokeStyle = ctx.fillStyle = colour("mark");
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + height);
      ctx.stroke();
      const wide = ctx.measureText(mark.text).width, gap = 4 * ratio;
      const at = x + gap + wide <= left + width ? x + gap : Math.max(x - gap - wide, left);
      if (at > free) ctx.fillText(mark.text, at, top + 11 * ratio);
      free = Math.max(free, at + wide);
    }
  });
}

/** Before them: a level {value, text}. */
function before(told) {
  return (u) => told.level && within(u, (ctx, { left, width }, ratio) => {
    const y = Math.round(u.valToPos(told.level.value, "y", true)), wide = ctx.measureText(told.level.text).width;
    ctx.strokeStyle = colour("alarm");
    ctx.setLineDash([6 * ratio, 4 * ratio]);
    ctx.beginPath();
    ctx.moveTo(left, y);
    ctx.lineTo(left + width, y);
    ctx.stroke();
    ctx.fillStyle = colour("surface");
    ctx.fillRect(left, y - 16 * ratio, wide + 8 * ratio, 14 * ratio);
    ctx.fillStyle = colour("alarm");
    ctx.fillText(told.level.text, left + 4 * ratio, y - 5 * ratio);
  });
}

/**
 * A chart in `place`: `told` has data, series [{colour, fill, dash, width, points}], y, height, values, band, level, marks;
 * `read(i)`, what is said in `output` of the i-th place under the pointer; and `zoomed(x)`, what is to be done then, where
 * one may zoom by dragging.
 */
export class Chart {
  constructor(place, output, told) {
    Object.assign(this, { place, output, told });
    alive.add(this);
    this.watch = new ResizeObserver(() => this.plot && this.resize());
    this.watch.observe(place);
    this.draw();
  }

  draw() {
    this.plot?.destroy();
    const { told } = this;
    const series = told.series.map((each) => ({
      stroke: () => colour(each.colour),
      width: each.width ?? 1.5,
      dash: each.dash,
      fill: each.fill ? () => colour(each.fill) : undefined,
      points: each.points ? { show: true, size: 6, width: 1.5, stroke: () => colour(each.colour), fill: () => colour(each.colour) } : { show: false },
      spanGaps: false,
    }));
    const options = {
      width: this.width(),
      height: told.height,
      legend: { show: false },
      cursor: { y: false, drag: { x: Boolean(told.zoomed), y: false }, points: { size: 6 } },
      padding: [8, 22, 0, 0],
      scales: { x: { time: true }, y: told.y ?? {} },
      axes: [
        axis({ values: times, space: 70, size: 24 }),
        axis({ size: 52, space: 28, values: told.values, ...(told.y?.distr === 3 ? { splits: decades, filter: (u, splits) => splits } : {}) }),
      ],
      series: [{}, ...series],
      hooks: {
        drawClear: [behind(told)],
        draw: [before(told)],
        setCursor: [(u) => this.say(u.cursor.idx)],
        setScale: [(u, key) => key === "x" && told.zoomed?.(u.scales.x)],
      },
    };
    this.plot = new uPlot(options, told.data, this.place);
  }

  width() {
    return Math.max(this.place.clientWidth, 200);
  }

  resize() {
    if (this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height: this.told.height });
  }

  say(i) {
    if (this.output) this.output.textContent = i == null ? this.told.rest ?? "" : this.told.read(i);
  }

  zoom({ min, max }) {
    const { x } = this.plot.scales;
    if (x.min !== min || x.max !== max) this.plot.setScale("x", { min, max });
  }

  set(data) {
    this.told.data = data;
    this.plot.setData(data);
    this.say(this.plot.cursor.idx);
  }

  destroy() {
    this.watch.disconnect();
    this.plot.destroy();
    alive.delete(this);
  }
}

for (const query of ["(prefers-color-scheme: dark)", "(resolution: 1dppx)"])
  matchMedia(query).addEventListener("change", () => alive.forEach((chart) => chart.draw()));
