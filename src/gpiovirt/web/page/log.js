// SPDX-License-Identifier: MIT
// The log of gpiovirtd's chips, filtered; what happens now comes on top.
import { language, t } from "./words.js";

const $ = (id) => document.getElementById(id);
const ROWS_MAX = 500;
const DECISIONS = "refused,tripped,rearmed,forced,made,deleted,changed,lost,requested,released,gone,back";
const BAD = new Set(["refused", "tripped", "lost", "gone"]);
const SINCE = { minutes: 600, hour: 3600, day: 86400 };

export class Log {
  constructor(get) {
    this.get = get;
    this.records = [];
    for (const key of Object.keys(SINCE)) $("log-since").append(new Option(t(key), key));
    $("log-kind").append(new Option(t("decisions"), "decisions"), new Option(t("edges"), "all"));
    for (const id of ["log-chip", "log-since", "log-kind"]) $(id).addEventListener("change", () => this.load());
    $("log-text").addEventListener("input", () => this.show());
    $("filter").addEventListener("submit", (event) => event.preventDefault());
  }

  setChips(chips) {
    const before = $("log-chip").value;
    $("log-chip").replaceChildren(new Option(t("all"), ""), ...chips.map((chip) => new Option(chip.name, chip.key)));
    $("log-chip").value = before;
    if ($("log-chip").selectedIndex < 0) $("log-chip").value = "";
  }

  async load() {
    try {
      const { origin_ms: origin } = await this.get("hello");
      const since = Math.floor((Date.now() - origin) * 1000 - SINCE[$("log-since").value] * 1e6);
      const kinds = $("log-kind").value === "all" ? "" : DECISIONS;
      const told = await this.get("log", { chip: $("log-chip").value, since, kinds });
      this.records = told.records.reverse();
      $("log-more").textContent = told.more ? t("more") : "";
    } catch (error) {
      this.records = [];
      $("log-more").textContent = error.message;
    }
    this.show();
  }

  add(record) {
    const chip = $("log-chip").value;
    if (chip && chip !== `chip:${record.chip}`) return;
    this.records.unshift(record);
    this.records.length = Math.min(this.records.length, ROWS_MAX);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.show(), 100);
  }

  show() {
    const wanted = $("log-text").value.toLowerCase();
    const rows = [];
    for (const record of this.records) {
      const cells = [this.time(record), this.line(record), this.what(record), this.who(record)];
      if (wanted && !cells.join(" ").toLowerCase().includes(wanted)) continue;
      const row = document.createElement("tr");
      if (BAD.has(record.what)) row.className = "bad";
      for (const text of cells) {
        const cell = document.createElement("td");
        cell.textContent = text;
        row.append(cell);
      }
      rows.push(row);
    }
    if (!rows.length) {
      const row = document.createElement("tr"), cell = document.createElement("td");
      cell.colSpan = 4;
      cell.textContent = t("nolog");
      row.append(cell);
      rows.push(row);
    }
    $("records").replaceChildren(...rows);
  }

  time(record) {
    const date = new Date(record.time_ns / 1e6);
    return `${date.toLocaleTimeString(language, { hour12: false })}.${String(date.getMilliseconds()).padStart(3, "0")}`;
  }

  line(record) {
    if (record.offset < 0 || record.offset === 65535) return record.chip;
    return `${record.chip}:${record.line || record.offset}`;
  }

  what(record) {
    const value = ["set", "edge", "configured"].includes(record.what) ? ` ${record.direction} ${record.value}` : "";
    return `${record.what}${value}${record.text ? `: ${record.text}` : ""}`;
  }

  who(record) {
    const who = record.who;
    if (!who) return "";
    return [who.consumer && `“${who.consumer}”`, who.pid && `pid ${who.pid}`, `uid ${who.uid}`, who.command]
      .filter(Boolean).join(", ");
  }
}
