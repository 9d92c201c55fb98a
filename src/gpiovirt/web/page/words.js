// SPDX-License-Identifier: MIT
// Every word of the page, in the language that the browser prefers.
const english = {
  skip: "Skip to the chips", login: "Come in", token: "Token", enter: "Enter", pause: "Pause", live: "Live",
  left: "Earlier", right: "Later", out: "Zoom out", in: "Zoom in", previous: "Previous edge", next: "Next edge",
  trigger: "Trigger", used: "Only lines in use", slope: "Edge of the trigger", rising: "rising", falling: "falling", both: "both", none: "none",
  keys: "Keys", log: "Log", chip: "Chip", since: "From", kind: "Kind", text: "Text", time: "Time", records: "Records", line: "Line",
  what: "What", who: "Who", all: "all", decisions: "decisions", edges: "levels, too", differences: "Differences",
  keyhelp: "In a waveform: arrows move, + and − zoom, n and p go to the next and previous edge, m marks an edge " +
    "(two marks measure), Escape forgets the marks, Space pauses. Mouse: drag moves, wheel zooms, click marks.",
  connected: "connected as {0}", gone: "connection lost; trying again", view: "recording",
  nochips: "There are no chips to see. Make one: gpiovirt new plc 'gpiochip0 0-3', or run " +
    "a program: gpiovirt run --web --sim panel:DOOR,LAMP -- PROGRAM",
  lost: "Changes came faster than this page could read them; it has loaded what was recorded of them.",
  unrecorded: "{0} changes were lost before they were recorded.",
  input: "input", output: "output", high: "high", low: "low", unknown: "not known", absent: "its source is gone",
  ended: "has ended", waiting: "waits: {0}", starting: "is starting", stuck: "stuck at {0}", forced: "forced {0}",
  pull: "Pull {0}", stick: "Stick {0}", unstick: "Unstick {0}", drive: "Drive {0}", release: "Release {0}",
  setlevel: "set", release_: "release", stick_: "stick", unstick_: "unstick", rearm: "Re-arm",
  wave: "Waveform of {0}: {1}", measured: "{0} between two edges ({1})", marked: "marked {0} at {1}",
  noedge: "no more edges there", tripped: "tripped", refusals: "refused {0}", more: "Only a part is shown; choose " +
    "a shorter time.", minutes: "10 minutes ago", hour: "an hour ago", day: "a day ago", triggered: "triggered by {0}",
  header: "{0}, {1}: levels of its pins", nolog: "No records.", equal: "No difference of more than {0}.",
  over: "This session has ended; get another link or token.",
};
const german = {
  skip: "Zu den Chips", login: "Anmelden", token: "Token", enter: "Anmelden", pause: "Anhalten", live: "Live",
  left: "Früher", right: "Später", out: "Verkleinern", in: "Vergrößern", previous: "Vorige Flanke",
  next: "Nächste Flanke", trigger: "Trigger", used: "Nur benutzte Leitungen", slope: "Flanke des Triggers", rising: "steigend", falling: "fallend",
  both: "beide", none: "keiner", keys: "Tasten", log: "Protokoll", chip: "Chip", since: "Ab", kind: "Art",
  text: "Text", time: "Zeit", records: "Einträge", line: "Leitung", what: "Was", who: "Wer", all: "alle", decisions: "Entscheidungen",
  edges: "auch Pegel", differences: "Unterschiede",
  keyhelp: "In einem Verlauf: Pfeile verschieben, + und − zoomen, n und p gehen zur nächsten und vorigen Flanke, m " +
    "merkt eine Flanke (zwei messen), Escape vergisst sie, Leertaste hält an. Maus: Ziehen verschiebt, Rad zoomt, " +
    "Klick merkt.",
  connected: "verbunden als {0}", gone: "Verbindung verloren; neuer Versuch läuft", view: "Aufzeichnung",
  nochips: "Es sind keine Chips zu sehen. Einen anlegen: gpiovirt new plc " +
    "'gpiochip0 0-3', oder ein Programm starten: gpiovirt run --web --sim panel:DOOR,LAMP -- PROGRAMM",
  lost: "Änderungen kamen schneller, als diese Seite lesen konnte; was aufgezeichnet wurde, ist geladen.",
  unrecorded: "{0} Änderungen gingen verloren, bevor sie aufgezeichnet waren.",
  input: "Eingang", output: "Ausgang", high: "1", low: "0", unknown: "nicht bekannt", absent: "Quelle fehlt",
  ended: "ist beendet", waiting: "wartet: {0}", starting: "startet", stuck: "klemmt auf {0}", forced: "erzwungen {0}",
  pull: "{0} ziehen", stick: "{0} klemmen", unstick: "{0} lösen", drive: "{0} setzen", release: "{0} freigeben",
  setlevel: "setzen", release_: "freigeben", stick_: "klemmen", unstick_: "lösen", rearm: "Wieder freigeben",
  wave: "Verlauf von {0}: {1}", measured: "{0} zwischen zwei Flanken ({1})", marked: "{0} gemerkt bei {1}",
  noedge: "dort sind keine Flanken mehr", tripped: "ausgelöst", refusals: "{0} abgelehnt", more: "Nur ein Teil wird " +
    "gezeigt; eine kürzere Zeit wählen.", minutes: "vor 10 Minuten", hour: "vor einer Stunde", day: "vor einem Tag",
  triggered: "ausgelöst von {0}", header: "{0}, {1}: Pegel der Stifte", nolog: "Keine Einträge.",
  equal: "Kein Unterschied von mehr als {0}.", over: "Diese Sitzung ist beendet; bitte neuen Link oder Token holen.",
};
export const language = (navigator.language || "en").toLowerCase().startsWith("de") ? "de" : "en";
const words = language === "de" ? german : english;

export function t(key, ...values) {
  return (words[key] ?? english[key] ?? key).replace(/\{(\d)\}/g, (_, n) => values[n]);
}

export function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-l]")) {
    element.setAttribute("aria-label", t(element.dataset.l));
    element.title = t(element.dataset.l);
  }
}
