// Numbers and times in words. Whatever comes in is data; what goes out is text.

const whole = new Intl.NumberFormat("en");

export const count = (n) => (n == null ? "–" : whole.format(Math.round(n)));

/** 12.3 k, 4.56 M */
export function short(n) {
  if (n == null || !isFinite(n)) return "–";
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e4, " k"]]) if (n >= size) return significant(n / (unit === " k" ? 1e3 : size)) + unit;
  return n >= 100 || Number.isInteger(n) ? count(n) : significant(n);
}

export function significant(n, digits = 3) {
  if (n == null || !isFinite(n)) return "–";
  if (n === 0) return "0";
  const size = Math.abs(n);
  return size >= 1e6 || size < 1e-3 ? n.toExponential(digits - 1) : String(Number(n.toPrecision(size >= 1000 ? 4 : digits)));
}

export function share(part) {
  if (part == null || !isFinite(part)) return "–";
  const percent = 100 * part;
  return (percent === 0 ? "0" : percent < 0.001 ? "<0.001" : String(Number(percent.toPrecision(percent >= 10 ? 3 : 2)))) + " %";
}

/** A sensor's share of the evidence. */
export const part = (of) => (of < 0.005 ? "<1 %" : `${Math.round(100 * of)} %`);

/** A probability as "1 in 24,000". */
export function odds(p) {
  if (p == null || !(p > 0)) return "–";
  const n = 1 / p;
  if (n >= 1e9) return "< 1 in a billion";
  if (n >= 1e6) return `1 in ${significant(n / 1e6, 2)} million`;
  const step = 10 ** Math.max(Math.floor(Math.log10(n)) - 1, 0);
  return `1 in ${count(Math.round(n / step) * step)}`;
}

/** Seconds as "3 min 12 s". */
export function duration(seconds) {
  const s = Math.max(Math.round(seconds), 0);
  if (seconds < 1) return "under 1 s";
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 ? ` ${s % 60} s` : ""}`;
  if (s < 86400) return `${Math.floor(s / 3600)} h${Math.floor((s % 3600) / 60) ? ` ${Math.floor((s % 3600) / 60)} min` : ""}`;
  return `${Math.floor(s / 86400)} d${Math.floor((s % 86400) / 3600) ? ` ${Math.floor((s % 86400) / 3600)} h` : ""}`;
}

export const ago = (time, now) => (time == null ? "–" : `${duration(now - time).replace(/ (s|min).*/, " $1")} ago`);

const two = (n) => String(n).padStart(2, "0");

/** Seconds since the epoch as 14:03:22. */
export function clock(time, withSeconds = true) {
  const t = new Date(time * 1000);
  return isNaN(t) ? "–" : `${two(t.getHours())}:${two(t.getMinutes())}${withSeconds ? `:${two(t.getSeconds())}` : ""}`;
}

/** ... with the day, unless it is today. */
export function moment(time, now) {
  const t = new Date(time * 1000), today = new Date(now * 1000);
  if (isNaN(t)) return "–";
  const day = `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())}`;
  return t.toDateString() === today.toDateString() ? clock(time) : `${day} ${clock(time, false)}`;
}

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
