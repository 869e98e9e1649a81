"use strict";
// A conversation with one model. State is `messages`; everything on the page is drawn from it, always as text.

const $ = (id) => document.getElementById(id);
const messages = []; // {role, parts: [{type, text}], reason?, note?, error?, tokens?, pending?}
const settings = ["temperature", "top_p", "top_k", "max_tokens", "seed", "system"];
let info = { style: "text", name: "model" };
let controller = null; // of the reply under way
let attempts = 0;

async function post(path, body, signal) {
  const response = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  if (!response.ok) {
    let text = `${response.status} ${response.statusText}`;
    try { text = (await response.json()).error || text; } catch { /* not JSON: the status says it */ }
    throw new Error(text);
  }
  return response;
}

// What the server is sent: the messages before `end`, without what went wrong, the system message in front.
function conversation(end = messages.length) {
  const sent = messages.slice(0, end).map(({ role, parts }) =>
    ({ role, content: role === "assistant" ? parts : parts.map((part) => part.text).join("") }));
  const system = $("system").value.trim();
  return system && info.style === "chat" ? [{ role: "system", content: system }, ...sent] : sent;
}

function sampling() {
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  const seed = number("seed");
  return {
    temperature: number("temperature"), top_p: number("top_p") === 1 ? null : number("top_p"),
    top_k: number("top_k") || null, max_tokens: number("max_tokens"),
    seed: seed === null ? Math.floor(Math.random() * 2 ** 31) : seed + attempts,
  };
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    buffer += value;
    let at;
    while ((at = buffer.indexOf("\n\n")) >= 0) {
      const [name, data] = buffer.slice(0, at).split("\n");
      buffer = buffer.slice(at + 2);
      yield [name.slice("event: ".length), JSON.parse(data.slice("data: ".length))];
    }
  }
}

async function reply() {
  const message = { role: "assistant", parts: [], tokens: [], pending: true };
  const body = { messages: conversation(), ...sampling() };
  messages.push(message);
  controller = new AbortController();
  draw();
  const started = performance.now();
  try {
    const response = await post("api/reply", body, controller.signal);
    for await (const [name, event] of events(response)) {
      if (name === "note") message.note = event.text;
      if (name === "error") throw new Error(event.text);
      if (name === "end") message.reason = event.reason;
      if (name === "token") add(message, event);
      update(message);
    }
    if (!message.reason) message.error = "the connection ended before the reply did";
  } catch (error) {
    if (error.name === "AbortError") message.reason = "stopped";
    else message.error = error.message;
  }
  message.pending = false;
  message.seconds = (performance.now() - started) / 1000;
  controller = null;
  await draw();
}

function add(message, token) {
  message.tokens.push(token);
  if (token.kind === "special") return;
  const last = message.parts.at(-1);
  if (last && last.type === token.kind) last.text += token.piece;
  else message.parts.push({ type: token.kind, text: token.piece });
}

async function send(text) {
  const last = messages.at(-1);
  if (last && last.error && !last.parts.length) messages.splice(-2); // a question that got no answer is forgotten
  messages.push({ role: "user", parts: [{ type: "text", text }] });
  attempts = 0;
  await reply();
}

async function regenerate() {
  while (messages.length && messages.at(-1).role === "assistant") messages.pop();
  attempts += 1;
  if (messages.length) await reply();
}

// Drawing. Text goes in through textContent only: what a model writes is never markup.
function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function chip(token) {
  const made = element("span", `token ${token.mask ? "written" : "given"}${token.kind === "special" ? " special" : ""}`);
  made.textContent = token.text === "\n" ? "\u21b5\n" : token.text;
  const p = token.probability;
  const share = p === null ? "" : `, probability ${(100 * p).toFixed(p < 0.001 ? 4 : 1)} %`;
  made.title = `${JSON.stringify(token.text)}, id ${token.id}${share}, ${token.mask ? "written by the model" : "given"}`;
  if (token.mask && p !== null) {
    const bits = Math.min(1, -Math.log2(Math.max(p, 1e-9)) / 7);
    made.style.backgroundColor = `rgba(var(--heat), ${(0.55 * bits).toFixed(3)})`;
  }
  return made;
}

function fill(bubble, message, view) {
  if (view) { bubble.replaceChildren(...view.map(chip)); return; }
  bubble.replaceChildren(...message.parts.map((part) =>
    part.type === "text" ? document.createTextNode(part.text) : element("code", `tool ${part.type}`, part.text)));
}

function below(message, isLast) {
  const line = element("div", "below");
  const words = { length: "reached the longest reply", context: "the model's context is full", stopped: "stopped" };
  if (message.error) line.append(element("span", "error", message.error));
  if (words[message.reason]) line.append(element("span", "", words[message.reason]));
  if (message.tokens && message.tokens.length) {
    const speed = message.seconds ? `, ${(message.tokens.length / message.seconds).toFixed(0)} per second` : "";
    line.append(element("span", "", `${message.tokens.length} tokens${speed}`));
  }
  if (isLast) {
    const again = element("button", "", "Regenerate");
    again.type = "button"; again.id = "regenerate"; again.addEventListener("click", regenerate);
    line.append(again);
  }
  const copy = element("button", "", "Copy");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(message.parts.map((part) => part.text).join(""));
      copy.textContent = "Copied";
    } catch { copy.textContent = "Copying is not allowed here"; }
  });
  if (message.parts.length) line.append(copy);
  return line;
}

function showsTokens() { return $("view").getAttribute("aria-pressed") === "true"; }

async function draw() {
  const views = showsTokens() ? await tokenViews() : [];
  const nearEnd = atEnd();
  const drawn = messages.map((message, number) => {
    const view = showsTokens() ? (message.pending ? message.tokens : views[number] || message.tokens) : null;
    const made = element("article", `message ${message.role}${message.pending ? " streaming" : ""}${view ? " tokens" : ""}`);
    made.setAttribute("aria-label", message.role === "user" ? "You" : "Model");
    if (message.note) made.append(element("p", "note", message.note));
    const bubble = element("div", "bubble");
    fill(bubble, message, view);
    if (view || message.parts.length || message.pending) made.append(bubble);
    if (!message.pending && message.role === "assistant") made.append(below(message, number === messages.length - 1));
    message.bubble = bubble;
    return made;
  });
  $("welcome").hidden = messages.length > 0;
  $("messages").replaceChildren($("welcome"), ...drawn);
  $("messages").setAttribute("aria-busy", String(controller !== null));
  $("send").hidden = controller !== null;
  $("stop").hidden = controller === null;
  $("fresh").disabled = controller !== null;
  $("legend").hidden = !showsTokens();
  if (nearEnd) scrollDown();
}

// While a reply comes in, only its own bubble is drawn again.
function update(message) {
  const nearEnd = atEnd();
  const shown = showsTokens();
  if (shown && message.bubble.childElementCount === message.tokens.length - 1) message.bubble.append(chip(message.tokens.at(-1)));
  else fill(message.bubble, message, shown ? message.tokens : null);
  if (nearEnd) scrollDown();
}

function atEnd() { const box = $("messages"); return box.scrollHeight - box.scrollTop - box.clientHeight < 80; }
function scrollDown() { $("messages").scrollTop = $("messages").scrollHeight; }

// Every finished message as tokens; the server joins a system message to the first one.
async function tokenViews() {
  const end = messages.length && messages.at(-1).pending ? messages.length - 1 : messages.length;
  if (!end) return [];
  try { return await (await post("api/tokens", { messages: conversation(end) })).json(); } catch { return []; }
}

function showValues() {
  for (const id of ["temperature", "top_p"]) {
    const value = Number($(id).value);
    $(`${id}-value`).textContent = id === "top_p" && value === 1 ? "off" : value.toFixed(2);
  }
}

function remember() {
  try { localStorage.setItem("cs336-chat", JSON.stringify(Object.fromEntries(settings.map((id) => [id, $(id).value])))); } catch { /* private window */ }
}

function recall() {
  try {
    const stored = JSON.parse(localStorage.getItem("cs336-chat") || "{}");
    for (const id of settings) if (typeof stored[id] === "string") $(id).value = stored[id];
  } catch { /* nothing stored, or not ours */ }
}

function grow() { const box = $("input"); box.style.height = "auto"; box.style.height = `${box.scrollHeight + 2}px`; }

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("input").value;
  if (controller || !text.trim()) return;
  $("input").value = ""; grow();
  scrollDown();
  send(text);
});
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("composer").requestSubmit(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && controller) controller.abort(); });
$("stop").addEventListener("click", () => controller && controller.abort());
$("fresh").addEventListener("click", () => { messages.length = 0; draw(); $("input").focus(); });
$("view").addEventListener("click", () => { $("view").setAttribute("aria-pressed", String(!showsTokens())); draw(); });
$("toggle").addEventListener("click", () => {
  $("settings").hidden = !$("settings").hidden;
  $("toggle").setAttribute("aria-expanded", String(!$("settings").hidden));
});
for (const id of settings) $(id).addEventListener("input", () => { showValues(); remember(); });

(async () => {
  recall(); showValues();
  try {
    info = await (await fetch("api/info")).json();
    const count = info.parameters >= 1e6 ? `${(info.parameters / 1e6).toFixed(1)}M` : `${Math.round(info.parameters / 1e3)}k`;
    $("name").textContent = info.name; document.title = `${info.name} - cs336 chat`;
    $("facts").textContent = `${count} parameters, context of ${info.context_length.toLocaleString()} tokens, ${info.vocab_size.toLocaleString()} in the vocabulary`;
    $("system-field").hidden = info.style !== "chat";
    $("advice").textContent = info.style === "chat" ? "The model answers in turns and may use a calculator."
      : info.style === "text" ? "This model was trained on texts: it goes on where you stop." : "Each question is answered by itself.";
    $("input").placeholder = info.style === "text" ? "Begin a text" : "Message";
  } catch { $("facts").textContent = "the server does not answer; is cs336 chat still running?"; }
})();
