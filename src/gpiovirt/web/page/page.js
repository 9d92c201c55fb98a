// SPDX-License-Identifier: MIT
// The page: chips as they are, told each second; levels as they change; and what its user does.
import { get, logIn, post, Refused, stream } from "./api.js";
import { Log } from "./log.js";
import { headerPicture, paintPins } from "./pins.js";
import { language, t, translate } from "./words.js";
import { colours, draw, drawAxis, duration, toSvg, Trace, UNKNOWN } from "./wave.js";

const $ = (id) => document.getElementById(id);
const LOOK_MS = 1000;
const ZOOM = 2;
const SHORTEST = 20, LONGEST = 90 * 86400e6;

const state = {
  hello: null, chips: new Map(), rows: new Map(), now: 0, nowAt: 0,
  span: 10e6, end: 0, isLive: true, marks: [], row: null, trigger: "", slope: "both", palette: colours(),
  fetching: new Map(), isConnected: false,
};
const log = new Log(get);

const clock = () => state.now + (performance.now() - state.nowAt) * 1000;
const until = () => (state.isLive && !state.hello?.view ? clock() : state.end);
const since = () => until() - state.span;

function nameOfTime(us, step) {
  if (state.hello?.view) return duration(us);
  const date = new Date(state.hello.origin_ms + us / 1000);
  const digits = step >= 1e6 ? 0 : step >= 1e3 ? 3 : 6;
  const clockText = date.toLocaleTimeString(language, { hour12: false });
  if (!digits) return clockText;
  const part = (((state.hello.origin_ms * 1000 + us) % 1e6) + 1e6) % 1e6;
  return `${clockText}.${String(Math.floor(part)).padStart(6, "0").slice(0, digits)}`;
}

function say(text) {
  const p = document.createElement("p");
  p.textContent = text;
  $("told").replaceChildren(p);
  clearTimeout(say.timer);
  say.timer = setTimeout(() => $("told").replaceChildren(), 12000);
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// -- rows

function button(text, label, act) {
  const made = element("button", "", text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.title = label;
  made.addEventListener("click", act);
  return made;
}

async function order(what, body) {
  try {
    await post(what, body);
    look();
  } catch (error) {
    failed(error);
  }
}

function makeRow(chip, line) {
  const row = { key: `${chip.key}#${line.offset}`, chip, line, trace: new Trace(clock()), isSeen: false, level: null };
  row.node = element("div", "row");
  row.node.dataset.line = row.key;
  const info = element("div", "info");
  row.levelNode = element("span", "level");
  row.nameNode = element("span", "name");
  row.aboutNode = element("span", "holder");
  row.warnNode = element("span", "warn");
  row.tools = element("span");
  info.append(row.levelNode, row.nameNode, row.tools, row.aboutNode, row.warnNode);
  row.canvas = element("canvas", "wave");
  row.canvas.tabIndex = 0;
  row.canvas.setAttribute("role", "img");
  row.node.append(info, row.canvas);
  observer.observe(row.canvas);
  rowOf.set(row.canvas, row);
  state.rows.set(row.key, row);
  return row;
}

const rowOf = new WeakMap();
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) rowOf.get(entry.target).isSeen = entry.isIntersecting;
  state.isDirty = true;
}, { rootMargin: "100px" });

const label = (line) => line.name || String(line.offset);
const levelText = (level) => (level === 1 ? t("high") : level === 0 ? t("low") : t("unknown"));

function act(row) {
  const { chip, line } = row;
  if (line.can.includes("pull")) order("sim", { chip: chip.key, offset: line.offset, do: "pull", level: row.level ? 0 : 1 });
  else order("drive", { chip: chip.key, offset: line.offset, level: row.level ? 0 : 1 });
}

function makeTools(row) {
  const { chip, line } = row;
  const name = label(line);
  const made = [];
  const main = line.can.includes("pull") ? "pull" : line.can.includes("drive") ? "drive" : "";
  if (main) {
    row.switch = button("0/1", t(main, name), () => act(row));
    row.switch.setAttribute("role", "switch");
    made.push(row.switch);
  } else row.switch = null;
  if (line.can.includes("release")) {
    made.push(button(t("release_"), t("release", name),
      () => order("drive", { chip: chip.key, offset: line.offset, level: null })));
  }
  if (line.can.includes("stick")) {
    const isStuck = line.stuck !== null;
    made.push(button(t(isStuck ? "unstick_" : "stick_"), t(isStuck ? "unstick" : "stick", name), () => order("sim",
      { chip: chip.key, offset: line.offset, do: isStuck ? "unstick" : "stick", level: row.level ? 1 : 0 })));
  }
  const focused = row.tools.contains(document.activeElement)
    ? [...row.tools.children].indexOf(document.activeElement) : -1;
  row.tools.replaceChildren(...made);
  if (focused >= 0) (made[focused] ?? made[0])?.focus();
}

function showLevel(row, level) {
  row.level = level;
  const text = level === 1 || level === 0 ? String(level) : "?";
  setText(row.levelNode, text);
  row.levelNode.className = `level ${level === 1 ? "high" : level === 0 ? "low" : ""}`;
  row.switch?.setAttribute("aria-checked", String(level === 1));
  row.canvas.setAttribute("aria-label", t("wave", label(row.line), levelText(level)));
}

function showRow(row, chip, line) {
  row.chip = chip;
  row.line = line;
  setText(row.nameNode, line.name ? `${line.name} (${line.offset})` : String(line.offset));
  const direction = line.used || chip.kind === "virtual" ? t(line.direction) : "";
  const holder = line.consumer ? `“${line.consumer}” ${line.holder ? `(${line.holder})` : ""}` : "";
  setText(row.aboutNode, [direction, holder, line.options].filter(Boolean).join(", "));
  row.node.classList.toggle("idle", !line.used && !row.trace.times.length);
  const warnings = [];
  if (line.stuck !== null) warnings.push(t("stuck", line.stuck));
  if (line.forced) warnings.push(t("forced", line.forced));
  if (!line.there) warnings.push(t("absent"));
  setText(row.warnNode, warnings.join(", "));
  const tools = JSON.stringify([line.can, line.stuck !== null, label(line)]);
  if (row.toolsAre !== tools) {
    row.toolsAre = tools;
    makeTools(row);
  }
  showLevel(row, line.level);
}

// -- chips

function showChip(told) {
  let chip = state.chips.get(told.key);
  if (!chip) {
    chip = { node: element("section", "chip"), rows: new Map() };
    const title = element("h2", "", told.name);
    title.id = `chip-${state.chips.size}`;
    chip.about = element("p");
    chip.about.id = `${title.id}-about`;
    chip.node.setAttribute("aria-labelledby", `${title.id} ${chip.about.id}`); // names alone may be the same
    chip.rules = element("ul", "rules");
    chip.axis = element("canvas", "axis");
    chip.axis.setAttribute("aria-hidden", "true");
    const axisRow = element("div", "axisrow");
    axisRow.append(element("span"), chip.axis);
    chip.list = element("div");
    chip.node.append(title, chip.about, chip.rules);
    for (const header of told.headers) {
      const picture = headerPicture(header, t("header", header.board, header.name));
      chip.node.append(picture);
    }
    chip.node.append(axisRow, chip.list);
    $("chips").append(chip.node);
    state.chips.set(told.key, chip);
  }
  chip.told = told;
  const status = told.state === "live" ? "" : ` — ${t(told.state, told.trouble)}`;
  setText(chip.about, told.about + status);
  const rules = JSON.stringify(told.rules);
  if (chip.rulesAre !== rules) {
    chip.rulesAre = rules;
    chip.rules.replaceChildren(...told.rules.map((rule) => {
      const item = element("li", rule.tripped ? "tripped" : "", rule.text);
      if (rule.refused) item.append(` — ${t("refusals", rule.refused)}`);
      if (rule.tripped) item.append(` — ${t("tripped")} `, button(t("rearm"), t("rearm"), () => order("rearm", { chip: told.key })));
      return item;
    }));
    chip.rules.hidden = !told.rules.length;
  }
  const there = new Set();
  for (const line of told.lines) {
    there.add(line.offset);
    let row = chip.rows.get(line.offset);
    if (!row) {
      row = makeRow(told, line);
      chip.rows.set(line.offset, row);
      chip.list.append(row.node);
      fetchPast(told.key);
    }
    showRow(row, told, line);
  }
  for (const [offset, row] of chip.rows) {
    if (there.has(offset)) continue;
    forget(row);
    chip.rows.delete(offset);
  }
}

function forget(row) {
  observer.unobserve(row.canvas);
  row.node.remove();
  state.rows.delete(row.key);
}

async function look() {
  try {
    const told = await get("chips");
    const daemon = told.daemon;
    $("bar").hidden = !told.chips.length;
    if ($("log").hidden && daemon.there) log.load();
    $("log").hidden = !daemon.there;
    const keys = new Set(told.chips.map((chip) => chip.key));
    for (const [key, chip] of state.chips) {
      if (keys.has(key)) continue;
      for (const row of chip.rows.values()) forget(row);
      chip.node.remove();
      state.chips.delete(key);
    }
    const names = told.chips.map((chip) => [chip.key, chip.name]).join();
    told.chips.forEach(showChip);
    if (look.names !== names) {
      look.names = names;
      fillTrigger();
      log.setChips(told.chips.filter((chip) => chip.kind === "virtual"));
    }
    paintPins((key) => state.rows.get(key)?.level);
    const connected = state.isConnected || state.hello.view
      ? (state.hello.view ? t("view") : t("connected", state.hello.user)) : t("gone");
    setText($("state"), daemon.why && !state.hello.only ? `${connected}; ${daemon.why}` : connected);
    const nothing = !told.chips.length;
    if (nothing && !look.said) say(t("nochips"));
    look.said = nothing;
    state.isDirty = true;
  } catch (error) {
    failed(error, true);
  }
}

function failed(error, isQuiet = false) {
  if (error instanceof Refused) {
    if (error.status === 401) askToken(error.message);
    else say(error.message);
  } else {
    setText($("state"), t("gone"));
    if (!isQuiet) say(t("gone"));
  }
}

// -- the past

function fetchPast(key) {
  if (state.fetching.has(key)) return;
  state.fetching.set(key, setTimeout(() => fetchNow(key), 120));
}

async function fetchNow(key) {
  const chip = state.chips.get(key);
  if (!chip) return state.fetching.delete(key);
  const from = Math.floor(since() - state.span), to = Math.ceil(until() + (state.isLive ? 0 : state.span));
  const want = { from, to, span: state.span };
  try {
    const columns = Math.min(4096, Math.max(900, 3 * (chip.axis.clientWidth || 300)));
    const told = await get("waves", { chip: key, since: from, until: to, columns });
    const all = told.lines[-1] ?? [];
    for (const [offset, row] of chip.rows) {
      let flat = told.lines[offset] ?? [];
      if (all.length) flat = merged(flat, all);
      row.trace.setPast(flat);
    }
    chip.has = want;
  } catch (error) {
    chip.has = want; // or it would be asked for ever
    failed(error);
  } finally {
    state.fetching.delete(key);
    state.isDirty = true;
  }
}

function merged(one, other) {
  const pieces = [];
  for (const flat of [one, other]) for (let i = 0; i < flat.length; i += 3) pieces.push(flat.slice(i, i + 3));
  return pieces.sort((a, b) => a[1] - b[1]).flat();
}

function needPast(chip) {
  const from = since(), to = until();
  let isLiveEnough = true;
  for (const row of chip.rows.values()) if (row.trace.liveFrom > from) { isLiveEnough = false; break; }
  if (isLiveEnough) return false;
  const has = chip.has;
  if (!has) return true;
  const liveFrom = Math.max(...[...chip.rows.values()].map((row) => row.trace.liveFrom));
  const isFine = has.span <= state.span * 1.01 || has.span <= state.span * 1.6;
  return has.from > from || (has.to < Math.min(to, liveFrom)) || !isFine;
}

// -- drawing

function frame() {
  requestAnimationFrame(frame);
  if (document.hidden || !state.hello || !state.chips.size) return;
  if (!(state.isDirty || (state.isLive && !state.hello.view))) return;
  state.isDirty = false;
  const from = since(), to = until(), now = state.hello.view ? to : clock();
  for (const [key, chip] of state.chips) {
    let isSeen = false;
    const end = chip.told.state === "ended" ? Math.min(now, chip.endedAt ??= clock()) : now;
    for (const row of chip.rows.values()) {
      if (!row.isSeen) continue;
      isSeen = true;
      draw(row.canvas, row.trace, from, to, end, state.marks, state.palette);
    }
    if (!isSeen) continue;
    drawAxis(chip.axis, from, to, nameOfTime, state.palette);
    if (needPast(chip)) fetchPast(key);
  }
  setText($("window"), duration(state.span));
  state.frames = (state.frames ?? 0) + 1;
}

// -- moving

function setLive(isLive) {
  if (state.hello?.view) isLive = false;
  if (state.isLive && !isLive) state.end = clock();
  state.isLive = isLive;
  $("pause").setAttribute("aria-pressed", String(!isLive));
  setText($("pause"), t(isLive ? "pause" : "live"));
  state.isDirty = true;
}

function move(us) {
  const end = until() + us;
  setLive(false);
  state.end = state.hello.view ? end : Math.min(end, clock());
  state.isDirty = true;
}

function zoom(factor, at = 0.5) {
  const span = Math.min(Math.max(state.span * factor, SHORTEST), LONGEST);
  if (!state.isLive || state.hello.view) state.end += (span - state.span) * (1 - at);
  state.span = span;
  state.isDirty = true;
}

function aim(row, step) {
  const from = state.marks.length ? state.marks[state.marks.length - 1] : step > 0 ? since() : until();
  const found = row?.trace.edge(from, step);
  if (found === undefined) {
    setText($("measure"), t("noedge"));
    return;
  }
  setLive(false);
  if (found < since() || found > until()) state.end = found + state.span / 2;
  mark(row, found, true);
}

function mark(row, at, isMoved = false) {
  if (isMoved && state.marks.length) state.marks[state.marks.length - 1] = at;
  else state.marks = [...state.marks.slice(-1), at];
  state.row = row;
  if (state.marks.length === 2) {
    const gap = state.marks[1] - state.marks[0];
    const rate = gap ? `${+(1e6 / Math.abs(gap)).toPrecision(6)} Hz` : "";
    setText($("measure"), t("measured", `Δ ${duration(gap)}`, rate));
  } else setText($("measure"), t("marked", label(row.line), nameOfTime(at, 1)));
  state.isDirty = true;
}

function nearestEdge(row, at) {
  const reach = (state.span / row.canvas.clientWidth) * 12;
  const next = row.trace.edge(at - 1, 1), last = row.trace.edge(at + 1, -1);
  const near = [next, last].filter((edge) => edge !== undefined && Math.abs(edge - at) <= reach);
  return near.sort((a, b) => Math.abs(a - at) - Math.abs(b - at))[0] ?? at;
}

$("chips").addEventListener("pointerdown", (event) => {
  const row = rowOf.get(event.target);
  if (!row || event.button) return;
  const start = event.clientX, end = until(), width = row.canvas.clientWidth;
  let isMoved = false;
  const onMove = (e) => {
    if (!isMoved && Math.abs(e.clientX - start) < 4) return;
    if (!isMoved) { isMoved = true; setLive(false); }
    state.end = Math.min(end - ((e.clientX - start) * state.span) / width, state.hello.view ? Infinity : clock());
    state.isDirty = true;
  };
  const onUp = (e) => {
    removeEventListener("pointermove", onMove);
    removeEventListener("pointerup", onUp);
    if (isMoved) return;
    const box = row.canvas.getBoundingClientRect();
    const at = since() + ((e.clientX - box.left) / box.width) * state.span;
    setLive(false);
    mark(row, nearestEdge(row, at));
  };
  addEventListener("pointermove", onMove);
  addEventListener("pointerup", onUp);
});

$("chips").addEventListener("wheel", (event) => {
  const row = rowOf.get(event.target);
  if (!row || event.ctrlKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) return;
  event.preventDefault();
  const box = row.canvas.getBoundingClientRect();
  zoom(event.deltaY > 0 ? 1.25 : 0.8, (event.clientX - box.left) / box.width);
}, { passive: false });

$("chips").addEventListener("keydown", (event) => {
  const row = rowOf.get(event.target);
  if (!row || event.ctrlKey || event.altKey || event.metaKey) return;
  const keys = {
    ArrowLeft: () => move(-state.span / 10), ArrowRight: () => move(state.span / 10),
    PageUp: () => move(-state.span), PageDown: () => move(state.span),
    "+": () => zoom(1 / ZOOM), "=": () => zoom(1 / ZOOM), "-": () => zoom(ZOOM),
    n: () => aim(row, 1), p: () => aim(row, -1), " ": () => setLive(!state.isLive),
    m: () => mark(row, state.marks.length ? state.marks[state.marks.length - 1] : (since() + until()) / 2),
    Escape: () => { state.marks = []; setText($("measure"), ""); state.isDirty = true; },
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

$("chips").addEventListener("focusin", (event) => { state.row = rowOf.get(event.target) ?? state.row; });

const firstRow = () => state.row ?? state.rows.values().next().value;
$("pause").addEventListener("click", () => setLive(!state.isLive));
$("left").addEventListener("click", () => move(-state.span / 2));
$("right").addEventListener("click", () => move(state.span / 2));
$("out").addEventListener("click", () => zoom(ZOOM));
$("in").addEventListener("click", () => zoom(1 / ZOOM));
$("next").addEventListener("click", () => aim(firstRow(), 1));
$("previous").addEventListener("click", () => aim(firstRow(), -1));
$("used").addEventListener("click", () => {
  const isOn = $("chips").classList.toggle("only-used");
  $("used").setAttribute("aria-pressed", String(isOn));
  state.isDirty = true;
});
$("help").addEventListener("click", () => {
  $("keys").hidden = !$("keys").hidden;
  $("help").setAttribute("aria-expanded", String(!$("keys").hidden));
});

// -- trigger

function fillTrigger() {
  const options = [new Option(t("none"), "")];
  for (const row of state.rows.values()) options.push(new Option(`${row.chip.name}: ${label(row.line)}`, row.key));
  $("trigger").replaceChildren(...options);
  $("trigger").value = state.rows.has(state.trigger) ? state.trigger : "";
}

for (const slope of ["both", "rising", "falling"]) $("slope").append(new Option(t(slope), slope));
$("trigger").addEventListener("change", () => { state.trigger = $("trigger").value; setLive(true); });
$("slope").addEventListener("change", () => { state.slope = $("slope").value; });

function triggers(row, time, level) {
  if (row.key !== state.trigger || !state.isLive || level === UNKNOWN) return;
  if (state.slope !== "both" && (state.slope === "rising") !== (level === 1)) return;
  setTimeout(() => {
    setLive(false);
    state.end = time + state.span / 2;
    state.marks = [];
    mark(row, time);
    setText($("measure"), t("triggered", label(row.line)));
  }, Math.min(state.span / 2000, 5000)); // so that what follows is seen, too
  state.trigger = "";
  $("trigger").value = "";
}

// -- what happens

const handlers = {
  now(us) {
    state.now = us;
    state.nowAt = performance.now();
  },
  levels({ chip: key, changes }) {
    const chip = state.chips.get(key);
    if (!chip) return;
    for (let i = 0; i < changes.length; i += 3) {
      const rows = changes[i] < 0 ? [...chip.rows.values()] : [chip.rows.get(changes[i])];
      for (const row of rows) {
        if (!row) continue;
        row.trace.add(changes[i + 1], changes[i + 2]);
        showLevel(row, changes[i + 2]);
        triggers(row, changes[i + 1], changes[i + 2]);
      }
    }
    paintPins((line) => state.rows.get(line)?.level);
    state.isDirty = true;
  },
  log(record) {
    log.add(record);
    if (record.what === "tripped" || record.what === "refused") say(`${record.chip}: ${record.what}: ${record.text}`);
    look();
  },
  lost({ count }) {
    say(count ? t("unrecorded", count) : t("lost"));
    restart();
  },
  over() { askToken(t("over")); },
};

// What has come live has a gap: what was before now is the server's to tell.
function restart() {
  for (const chip of state.chips.values()) {
    chip.has = null;
    for (const row of chip.rows.values()) row.trace.restart(clock());
  }
}

async function follow() {
  let pause = 300;
  for (;;) {
    try {
      await stream((event, data) => {
        if (!state.isConnected) {
          state.isConnected = true;
          pause = 300;
          if (event === "now") handlers.now(data);
          restart();
          look();
        }
        handlers[event]?.(data);
      });
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return askToken(error.message);
      if (error instanceof Refused) say(error.message);
    }
    state.isConnected = false;
    setText($("state"), t("gone"));
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 2, 5000);
  }
}

// -- pictures for reports

function save(blob, name) {
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function picture() {
  const rows = [...state.rows.values()].map((row) => ({ name: `${row.chip.name}: ${label(row.line)}`, trace: row.trace }));
  return toSvg(rows, since(), until(), state.hello.view ? until() : clock(), nameOfTime, state.palette);
}

$("svg").addEventListener("click", () => save(new Blob([picture()], { type: "image/svg+xml" }), "gpiovirt.svg"));
$("png").addEventListener("click", async () => {
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([picture()], { type: "image/svg+xml" }));
  await image.decode();
  const canvas = element("canvas");
  canvas.width = image.width * 2;
  canvas.height = image.height * 2;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  canvas.toBlob((blob) => save(blob, "gpiovirt.png"));
});

// -- coming in

function askToken(why) {
  $("login").hidden = false;
  setText($("login-why"), why);
  $("token").focus();
}

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await logIn($("token").value.trim());
    location.reload();
  } catch (error) {
    setText($("login-why"), error.message);
  }
});

async function showDifferences() {
  const told = await get("differences");
  if (!told) return;
  $("differences").hidden = false;
  const items = told.found.map((text) => element("li", "", text));
  if (!items.length) items.push(element("li", "", t("equal", told.tolerance)));
  $("differences").querySelector("ul").replaceChildren(...items);
}

async function begin() {
  translate();
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", location.pathname);
    try {
      await logIn(token);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      $("told").replaceChildren(element("p", "", error.message));
    }
  }
  try {
    state.hello = await get("hello");
  } catch (error) {
    return failed(error);
  }
  handlers.now(state.hello.now);
  if (state.hello.view) {
    state.end = state.hello.view.end;
    state.span = Math.max(state.hello.view.end * 1.02, SHORTEST);
    state.isLive = false;
    $("pause").hidden = true;
  }
  await look();
  requestAnimationFrame(frame);
  if (state.hello.view) return showDifferences();
  setInterval(() => { if (!document.hidden) look(); }, LOOK_MS);
  follow();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  state.palette = colours();
  state.isDirty = true;
});
addEventListener("resize", () => { state.isDirty = true; });
window.gpiovirt = state; // for the tests, and for who looks with the browser's tools
begin();
