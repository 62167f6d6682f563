// The console page: what it shows. How it stays connected is herald-client.js.
import { HeraldClient } from "/herald-client.js";

const $ = (id) => document.getElementById(id);
const inbox = new Map(); // id → { item, element }
let session = null;
let client = null;
let shown = { user: "" }; // of the last connect, whatever the field says since

async function connect() {
  client?.stop();
  const user = $("user").value;
  const now = (shown = { user });
  const granted = await getSession(user);
  // Asked again meanwhile.
  if (now !== shown) return;
  session = granted;
  $("to").value = user;
  inbox.clear();
  $("inbox").replaceChildren();
  $("notice").hidden = true;
  await loadInbox();
  if (now !== shown) return;
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
  client.addEventListener("unrecovered", () => loadInbox().catch(showNotice));
  client.start();
  window.heraldClient = client;
}

async function getSession(user) {
  const response = await fetch(`/console/session?user=${encodeURIComponent(user)}`);
  return answered(response);
}

async function answered(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error?.message ?? `HTTP ${response.status}`);
  return body;
}

async function api(path, options = {}) {
  // Who only sends need not connect.
  session ??= await getSession($("user").value);
  const headers = { authorization: `Bearer ${session.api_key}`, "content-type": "application/json" };
  return answered(await fetch(path, { ...options, headers }));
}

async function loadInbox() {
  const of = shown;
  const page = await api(`/v1/users/${encodeURIComponent(of.user)}/notifications?limit=50`);
  if (of !== shown) return;
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
  element.append(title, button, body, facts, delivery(item.id));
  $("inbox").prepend(element);
  inbox.set(item.id, { item, element });
  if (item.read) markRead(item.id);
  countUnread();
}

/** What became of it by each channel: asked for while it is open. */
function delivery(id) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = "Delivery";
  const states = document.createElement("small");
  states.className = "channels";
  details.append(summary, states);
  const { user } = shown;
  details.ontoggle = async () => {
    while (details.open && details.isConnected) {
      await showStates(id, user, states).catch((error) => { states.textContent = error.message; });
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  };
  return details;
}

/** A line for each channel; answers the states. */
async function showStates(id, user, element) {
  const query = user === null ? "" : `?user=${encodeURIComponent(user)}`;
  const { states, scheduled_at } = await api(`/v1/notifications/${id}/delivery${query}`);
  const lines = states.map(line);
  if (scheduled_at) lines.push(`scheduled for ${new Date(scheduled_at).toLocaleString()}`);
  if (lines.length === 0) lines.push("nobody has reported yet");
  element.replaceChildren(...lines);
  return states;
}

function line(state) {
  const element = document.createElement("span");
  element.className = "channel";
  element.dataset.channel = state.channel;
  element.dataset.state = state.state;
  const facts = [`${state.channel}: ${state.state}${state.devices ? ` (${state.devices})` : ""}`];
  if (state.error) facts.push(state.error);
  if (state.attempts) facts.push(`${state.attempts} ${state.attempts === 1 ? "attempt" : "attempts"}`);
  facts.push(new Date(state.updated_at).toLocaleTimeString());
  element.textContent = facts.join(" · ");
  // Long, and of use to who looks for it elsewhere.
  if (state.provider_id) element.title = state.provider_id;
  return element;
}

/** Nothing follows any more. */
function isFinal({ channel, state }) {
  const last = channel === "in_app" ? ["read"] : ["failed", "skipped", "delivered", "undelivered"];
  return last.includes(state);
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

function showNotice(error) {
  $("notice").textContent = error.message;
  $("notice").hidden = false;
}

function showState({ state, transport, code }) {
  const words = { open: `connected by ${transport === "sse" ? "SSE" : "WebSocket"}`, connecting: "connecting…",
    waiting: "coming back…", refused: `refused (${code})`, stopped: "not connected" };
  $("state").dataset.state = state;
  $("state").textContent = words[state] ?? state;
}

async function send() {
  const everyone = $("target").value === "all";
  const channels = [...document.querySelectorAll("#channels input:checked")].map((box) => box.value);
  const posted = await api("/v1/notifications", {
    method: "POST",
    body: JSON.stringify({
      target: everyone ? { all: true } : { user: $("to").value },
      type: $("type").value,
      priority: $("priority").value,
      channels: channels.length > 0 ? channels : undefined,
      title: $("title").value || undefined,
      body: $("body").value || undefined,
    }),
  });
  const element = document.createElement("li");
  element.dataset.id = posted.id;
  const states = document.createElement("small");
  states.className = "channels";
  states.textContent = posted.durability === "bus" ? "accepted" : posted.durability;
  const what = document.createElement("span");
  what.className = "what";
  what.textContent = `${$("title").value || $("type").value} → ${everyone ? "everyone" : $("to").value}`;
  element.append(what, states);
  $("sent").prepend(element);
  follow(posted.id, everyone ? null : $("to").value, states);
}

/** Shows the delivery states as they move on, for two minutes. */
async function follow(id, user, element) {
  for (let round = 0; round < 120; round += 1) {
    // 404 until it is routed.
    const states = await showStates(id, user, element).catch(() => []);
    if (states.length > 0 && states.every(isFinal)) return;
    await new Promise((resolve) => setTimeout(resolve, round < 10 ? 300 : 1000));
  }
}

$("connect").onsubmit = (event) => {
  event.preventDefault();
  connect().catch(showNotice);
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
