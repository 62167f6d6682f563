// The console page: what it shows. How it stays connected is herald-client.js.
import { HeraldClient } from "/herald-client.js";

const $ = (id) => document.getElementById(id);
const inbox = new Map(); // id → { item, element }
let session = null;
let client = null;

async function connect() {
  client?.stop();
  const user = $("user").value;
  session = await getSession(user);
  $("to").value = user;
  inbox.clear();
  $("inbox").replaceChildren();
  $("notice").hidden = true;
  await loadInbox();
  client = new HeraldClient({
    url: session.ws_url,
    token: async () => (await getSession(user)).token,
    transport: $("transport").value,
    // Per tab: every tab is a device of its own.
    storage: sessionStorage,
    storageKey: `herald:${user}`,
  });
  client.addEventListener("state", ({ detail }) => showState(detail));
  client.addEventListener("notification", ({ detail }) => show(detail));
  client.addEventListener("read", ({ detail }) => detail.ids.forEach(markRead));
  client.addEventListener("unrecovered", () => loadInbox());
  client.start();
  window.heraldClient = client;
}

async function getSession(user) {
  const response = await fetch(`/console/session?user=${encodeURIComponent(user)}`);
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

async function api(path, options = {}) {
  const headers = { authorization: `Bearer ${session.api_key}`, "content-type": "application/json" };
  const response = await fetch(path, { ...options, headers });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error?.message ?? `HTTP ${response.status}`);
  return body;
}

async function loadInbox() {
  const page = await api(`/v1/users/${encodeURIComponent($("user").value)}/notifications?limit=50`);
  for (const item of [...page.items].reverse()) show(item);
}

function show(item) {
  if (inbox.has(item.id)) return;
  const element = document.createElement("li");
  element.className = "item";
  element.dataset.id = item.id;
  const title = document.createElement("strong");
  title.textContent = item.title ?? item.notification_type;
  const body = document.createElement("p");
  body.textContent = item.body ?? "";
  const facts = document.createElement("small");
  const tag = document.createElement("span");
  tag.className = `tag ${item.priority}`;
  tag.textContent = item.priority;
  facts.append(tag, ` ${item.notification_type} · ${new Date(item.created_at).toLocaleTimeString()}`);
  if (item.stream?.startsWith("all:")) facts.append(" · to everyone");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Mark read";
  button.onclick = () => read([item.id]);
  element.append(title, button, body, facts);
  $("inbox").prepend(element);
  inbox.set(item.id, { item, element });
  if (item.read) markRead(item.id);
  countUnread();
}

function read(ids) {
  client.read(ids);
  ids.forEach(markRead);
}

function markRead(id) {
  const entry = inbox.get(id);
  if (!entry) return;
  entry.read = true;
  entry.element.classList.add("read");
  entry.element.querySelector("button")?.remove();
  countUnread();
}

function countUnread() {
  $("unread").textContent = [...inbox.values()].filter((entry) => !entry.read).length;
}

function showState({ state, transport, code }) {
  const words = { open: `connected by ${transport === "sse" ? "SSE" : "WebSocket"}`, connecting: "connecting…",
    waiting: "coming back…", refused: `refused (${code})`, stopped: "not connected" };
  $("state").dataset.state = state;
  $("state").textContent = words[state] ?? state;
}

async function send() {
  const everyone = $("target").value === "all";
  const posted = await api("/v1/notifications", {
    method: "POST",
    body: JSON.stringify({
      target: everyone ? { all: true } : { user: $("to").value },
      type: $("type").value,
      priority: $("priority").value,
      title: $("title").value || undefined,
      body: $("body").value || undefined,
    }),
  });
  const element = document.createElement("li");
  element.dataset.id = posted.id;
  const states = document.createElement("small");
  states.textContent = "accepted";
  const what = document.createElement("span");
  what.className = "what";
  what.textContent = `${$("title").value || $("type").value} → ${everyone ? "everyone" : $("to").value}`;
  element.append(what, states);
  $("sent").prepend(element);
  follow(posted.id, everyone ? null : $("to").value, states);
}

/** Shows the delivery states as they move on, for two minutes. */
async function follow(id, user, element) {
  const query = user === null ? "" : `?user=${encodeURIComponent(user)}`;
  for (let round = 0; round < 120; round += 1) {
    const { states } = await api(`/v1/notifications/${id}/delivery${query}`).catch(() => ({ states: [] }));
    if (states.length > 0) {
      element.textContent = states.map((s) => `${s.channel}: ${s.state}${s.devices ? ` (${s.devices})` : ""}`).join(" · ");
      if (states.every((s) => s.state === "read")) return;
    }
    await new Promise((resolve) => setTimeout(resolve, round < 10 ? 300 : 1000));
  }
}

$("connect").onsubmit = (event) => {
  event.preventDefault();
  connect().catch((error) => { $("notice").textContent = error.message; $("notice").hidden = false; });
};
$("send").onsubmit = (event) => {
  event.preventDefault();
  $("send-error").hidden = true;
  send().catch((error) => { $("send-error").textContent = error.message; $("send-error").hidden = false; });
};
$("target").onchange = () => { $("to-user").hidden = $("target").value === "all"; };
$("read-all").onclick = () => {
  const ids = [...inbox.values()].filter((entry) => !entry.read).map((entry) => entry.item.id);
  if (ids.length > 0) read(ids);
};

const asked = new URLSearchParams(location.search);
if (asked.has("transport")) $("transport").value = asked.get("transport");
if (asked.has("user")) {
  $("user").value = asked.get("user");
  $("connect").requestSubmit();
}
