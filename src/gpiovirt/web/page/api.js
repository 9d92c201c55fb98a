// SPDX-License-Identifier: MIT
// What the page asks its server. The key is this origin's alone; the cookie that goes with it no script sees.
const KEY = "gpiovirt-key";

export class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function refusal(response) {
  let text = response.statusText;
  try { text = (await response.json()).detail ?? text; } catch { /* it is no problem of ours */ }
  return new Refused(response.status, text);
}

function headers(more = {}) {
  return { "X-Gpiovirt-Key": localStorage.getItem(KEY) ?? "", ...more };
}

export async function logIn(token) {
  const response = await fetch("web/login", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }),
  });
  if (!response.ok) throw await refusal(response);
  localStorage.setItem(KEY, (await response.json()).key);
}

export async function get(what, query = {}) {
  const response = await fetch(`web/${what}?${new URLSearchParams(query)}`, { headers: headers() });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

export async function post(what, body) {
  const response = await fetch(`web/${what}`, {
    method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body),
  });
  if (!response.ok) throw await refusal(response);
}

// Calls on(event, data) until the stream ends.
export async function stream(on) {
  const response = await fetch("web/live", { headers: headers() });
  if (!response.ok) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const messages = (rest + value).split("\n\n");
    rest = messages.pop();
    for (const message of messages) {
      const found = /^event: (.*)\ndata: (.*)$/.exec(message);
      if (found) on(found[1], JSON.parse(found[2]));
    }
  }
}
