// SPDX-License-Identifier: MIT
// Levels of a line over time, and their picture. Times are microseconds as the server has them.
export const UNKNOWN = 2;
const LIVE_MAX = 200000; // changes of a line that are kept; the server has the others

// The first index of a sorted array whose value is greater than time.
export function after(times, time) {
  let low = 0, high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= time) low = middle + 1; else high = middle;
  }
  return low;
}

// A line's pieces: what was fetched of the past, and what has come since `liveFrom`.
export class Trace {
  constructor(liveFrom) {
    this.liveFrom = liveFrom;
    this.past = { begin: [], end: [], level: [] };
    this.times = [];
    this.levels = [];
  }

  add(time, level) {
    const last = this.times.length ? this.times[this.times.length - 1] : this.liveFrom;
    if (time < last) time = last;
    this.times.push(time);
    this.levels.push(level);
    if (this.times.length > LIVE_MAX) {
      const half = LIVE_MAX >> 1;
      this.liveFrom = this.times[half];
      this.times = this.times.slice(half);
      this.levels = this.levels.slice(half);
    }
  }

  setPast(flat) {
    const past = { begin: [], end: [], level: [] };
    for (let i = 0; i + 2 < flat.length; i += 3) {
      past.begin.push(flat[i]);
      past.end.push(flat[i + 1]);
      past.level.push(flat[i + 2]);
    }
    this.past = past;
  }

  restart(liveFrom) {
    this.liveFrom = liveFrom;
    this.times = [];
    this.levels = [];
  }

  levelAt(time) {
    if (time >= this.liveFrom) {
      const place = after(this.times, time);
      if (place) return this.levels[place - 1];
      time = this.liveFrom;
    }
    const place = after(this.past.end, time);
    return place ? this.past.level[place - 1] : UNKNOWN;
  }

  // The next change after (or, with step -1, before) a time; undefined if none is known.
  edge(time, step) {
    const past = this.past.end;
    if (step > 0) {
      if (time < this.liveFrom) {
        for (let place = after(past, time); place < past.length && past[place] < this.liveFrom; place++) {
          if (this.isEdge(place)) return past[place];
        }
      }
      return this.times[after(this.times, time)];
    }
    const place = after(this.times, time - 1) - 1;
    if (place >= 0) return this.times[place];
    for (let i = after(past, Math.min(time - 1, this.liveFrom)) - 1; i >= 0; i--) {
      if (this.isEdge(i)) return past[i];
    }
    return undefined;
  }

  // What becomes known is no edge; many changes that were told as one are.
  isEdge(place) {
    const { begin, end, level } = this.past;
    const before = place ? level[place - 1] : UNKNOWN;
    return end[place] > begin[place] || (before !== UNKNOWN && level[place] !== UNKNOWN && level[place] !== before);
  }

  // Calls part(x, level, isDense) for what changes in the columns of a picture.
  columns(since, until, width, part) {
    const scale = width / (until - since);
    const past = this.past;
    for (let i = after(past.end, since); i < past.end.length; i++) {
      if (past.begin[i] > until || past.begin[i] >= this.liveFrom) break;
      const x = (past.begin[i] - since) * scale, end = (past.end[i] - since) * scale;
      part(x, past.level[i], past.end[i] > past.begin[i], end);
    }
    let i = after(this.times, since);
    const last = after(this.times, until);
    const isMany = last - i > 2 * width;
    while (i < last) {
      const x = (this.times[i] - since) * scale;
      let j = i;
      if (isMany) j = Math.max(after(this.times, since + (Math.floor(x) + 1) / scale) - 1, i);
      else while (j + 1 < last && Math.floor((this.times[j + 1] - since) * scale) === Math.floor(x)) j++;
      part(x, this.levels[j], j > i, (this.times[j] - since) * scale);
      i = j + 1;
    }
  }
}

export function colours() {
  const style = getComputedStyle(document.documentElement);
  const found = {};
  for (const name of ["paper", "ink", "faint", "line", "high", "low", "mark", "unknown"]) {
    found[name] = style.getPropertyValue(`--${name}`).trim();
  }
  return found;
}

// Strokes of a trace as [x0, x1, level or null where it is dense].
export function segments(trace, since, until, width, now) {
  const found = [];
  const end = Math.min(width, ((now - since) * width) / (until - since));
  let x = 0, level = trace.levelAt(since);
  trace.columns(since, until, width, (at, next, isDense, atEnd) => {
    if (at > x) found.push([x, at, level]);
    if (isDense) found.push([Math.max(at, 0), Math.max(atEnd, at + 1), null]);
    x = isDense ? Math.max(atEnd, at + 1) : Math.max(at, x);
    level = next;
  });
  if (end > x) found.push([x, end, level]);
  return found;
}

export function draw(canvas, trace, since, until, now, marks, palette) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.fillStyle = palette.paper;
  pen.fillRect(0, 0, width, height);
  const top = 5, bottom = height - 5;
  let before = UNKNOWN;
  for (const [x0, x1, level] of segments(trace, since, until, width, now)) {
    if (level === null) {
      pen.fillStyle = palette.high;
      pen.fillRect(x0, top, Math.max(x1 - x0, 1), bottom - top);
    } else if (level === UNKNOWN) {
      pen.fillStyle = palette.unknown;
      pen.fillRect(x0, (top + bottom) / 2 - 1, x1 - x0, 2);
    } else {
      pen.fillStyle = level ? palette.high : palette.low;
      pen.fillRect(x0, level ? top : bottom - 2, Math.max(x1 - x0, 1), 2);
      if (before !== null && before !== UNKNOWN && before !== level) pen.fillRect(x0, top, 1.5, bottom - top);
    }
    before = level;
  }
  for (const mark of marks) {
    const x = ((mark - since) * width) / (until - since);
    pen.fillStyle = palette.mark;
    pen.fillRect(x - 0.75, 0, 1.5, height);
  }
}

const STEPS = [1, 2, 5];

export function duration(us) {
  const size = Math.abs(us);
  const [unit, name] = size >= 1e6 ? [1e6, "s"] : size >= 1e3 ? [1e3, "ms"] : [1, "µs"];
  return `${+(us / unit).toFixed(size >= 1e6 ? 6 : 3)} ${name}`;
}

// Marks of an axis: [x, text].
export function ticks(since, until, width, nameOf) {
  let step = 1;
  for (let i = 0; ((until - since) / step) * 90 > width; i++) step = STEPS[i % 3] * 10 ** Math.floor(i / 3);
  const found = [];
  for (let at = Math.ceil(since / step) * step; at <= until; at += step) {
    found.push([((at - since) * width) / (until - since), nameOf(at, step)]);
  }
  return found;
}

export function drawAxis(canvas, since, until, nameOf, palette) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  pen.fillStyle = palette.faint;
  for (const [x, text] of ticks(since, until, width, nameOf)) {
    pen.fillRect(x, height - 4, 1, 4);
    pen.fillText(text, x + 3, height - 5);
  }
}

// The waveforms of rows [{name, trace}] as a picture that any report takes.
export function toSvg(rows, since, until, now, nameOf, palette) {
  const left = 160, width = 900, height = 30;
  const escape = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const parts = [`<rect width="100%" height="100%" fill="${palette.paper}"/>`];
  for (const [x, text] of ticks(since, until, width, nameOf)) {
    parts.push(`<text x="${(left + x).toFixed(1)}" y="14" fill="${palette.faint}">${escape(text)}</text>`);
    parts.push(`<path d="M${(left + x).toFixed(1)} 18v${rows.length * height}" stroke="${palette.line}"/>`);
  }
  rows.forEach(({ name, trace }, row) => {
    const y = 20 + row * height, top = y + 5, bottom = y + height - 7;
    parts.push(`<text x="4" y="${y + 18}" fill="${palette.ink}">${escape(name)}</text>`);
    let path = "", dense = "", unknown = "", before = null;
    for (const [x0, x1, level] of segments(trace, since, until, width, now)) {
      const a = (left + x0).toFixed(1), b = (left + Math.max(x1, x0 + 0.5)).toFixed(1);
      if (level === null) dense += `M${a} ${top}H${b}V${bottom}H${a}z`;
      else if (level === UNKNOWN) unknown += `M${a} ${(top + bottom) / 2}H${b}`;
      else path += `${before === null || before === UNKNOWN ? `M${a} ` : `V`}${level ? top : bottom}H${b}`;
      before = level;
    }
    parts.push(`<path d="${path}" fill="none" stroke="${palette.high}" stroke-width="1.5"/>`);
    if (dense) parts.push(`<path d="${dense}" fill="${palette.high}"/>`);
    if (unknown) parts.push(`<path d="${unknown}" stroke="${palette.unknown}"/>`);
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${left + width + 10}" height="${30 + rows.length * height}" ` +
    `font-family="sans-serif" font-size="12">${parts.join("")}</svg>`;
}
