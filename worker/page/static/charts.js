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

/** Lines at marks {time, text}; a band from..to; a level {value, text}. */
function behind(told) {
  return (u) => {
    const { ctx } = u, ratio = devicePixelRatio, { left, top, width, height } = u.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    if (told.band) {
      const from = u.valToPos(told.band[0], "x", true), to = u.valToPos(told.band[1], "x", true);
      ctx.fillStyle = colour("shade");
      ctx.fillRect(from - ratio, top, Math.max(to - from, 2 * ratio) + ratio, height);
    }
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.lineWidth = ratio;
    if (told.level) {
      const y = Math.round(u.valToPos(told.level.value, "y", true));
      ctx.strokeStyle = ctx.fillStyle = colour("alarm");
      ctx.setLineDash([6 * ratio, 4 * ratio]);
      ctx.beginPath();
      ctx.moveTo(left, y);
      ctx.lineTo(left + width, y);
      ctx.stroke();
      ctx.fillText(told.level.text, left + 4 * ratio, y - 4 * ratio);
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
      const wide = ctx.measureText(mark.text).width, at = Math.max(Math.min(x + 4 * ratio, left + width - wide), left);
      if (at > free) ctx.fillText(mark.text, at, top + 11 * ratio);
      free = Math.max(free, at + wide);
    }
    ctx.restore();
  };
}

/**
 * A chart in `place`: `told` has data, series [{colour, dash, width, points}], y, height, fill, band, level, marks, and
 * `read(i)`, what is said of the i-th place under the pointer, in `output`.
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
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      padding: [8, 22, 0, 0],
      scales: { x: { time: true }, y: told.y ?? {} },
      axes: [
        axis({ values: times, space: 70, size: 24 }),
        axis({ size: 52, space: 28, values: told.values, ...(told.y?.distr === 3 ? { splits: decades, filter: (u, splits) => splits } : {}) }),
      ],
      series: [{}, ...series],
      hooks: { drawClear: [behind(told)], setCursor: [(u) => this.say(u.cursor.idx)] },
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
