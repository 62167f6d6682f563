// Herald client: one class, no dependencies, for browsers.
//
//   const client = new HeraldClient({ url: "ws://host:8080/ws/notifications", token: () => fetchToken() });
//   client.addEventListener("notification", (event) => show(event.detail));
//   client.start();
//
// What it keeps for you:
//  * each notification reaches you once, although the wire may repeat it (the last 1,000 ids are remembered);
//  * it knows when something is missing: a hole in the positions is healed by a `sync`;
//  * after a break it comes back in the slot the server advertised, and resumes where it left off;
//  * it falls back to SSE where WebSocket does not get through, with the same guarantees;
//  * cursors and ids survive a reload in the storage you give it.
//
// Events: `notification` (detail: the item), `read` (detail: { ids }), `state` (detail: { state, transport }),
// `unrecovered` (detail: { streams }): the server could not vouch that nothing is missing; reload the inbox.

const AHEAD_RANGES_MAX = 256;
const SEEN_IDS_MAX = 1000;
const IDS_PER_FRAME_MAX = 500;
const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 30_000;
const HOLE_PATIENCE_MS = 1_000;
const ACK_LINGER_MS = 50;
const SAVE_LINGER_MS = 200;
const WEBSOCKET_TRIES = 2;

/** The highest contiguous position of one stream, and the ranges known above it. */
export class Cursor {
  #ahead = []; // [from, to], ascending; they neither touch nor overlap

  constructor(at = 0) {
    this.at = at;
  }

  get hasHole() {
    return this.#ahead.length > 0;
  }

  /** An item arrived: nothing lies between `prev` and `pos`. */
  advance(prev, pos) {
    this.cover(prev, pos);
  }

  /** Everything in (from, to] is accounted for. */
  cover(from, to) {
    if (to <= this.at || to <= from) return;
    if (from <= this.at) return this.jump(to);
    const joined = [from, to];
    const apart = this.#ahead.filter(([start, end]) => {
      if (end < joined[0] || start > joined[1]) return true;
      joined[0] = Math.min(joined[0], start);
      joined[1] = Math.max(joined[1], end);
      return false;
    });
    this.#ahead = [...apart, joined].sort((a, b) => a[0] - b[0]).slice(0, AHEAD_RANGES_MAX);
  }

  /** Go on from there, whatever lies before it. */
  jump(to) {
    if (to <= this.at) return;
    this.at = to;
    while (this.#ahead.length > 0 && this.#ahead[0][0] <= this.at) {
      this.at = Math.max(this.at, this.#ahead.shift()[1]);
    }
  }
}

/** Whether a client should come back after this close code. */
export function comesBack(code) {
  return code === 1001 || code === 1006 || code === 1012 || (code >= 4000 && code <= 4499);
}

export class HeraldClient extends EventTarget {
  #options;
  #cursors = new Map();
  #seen = new Set();
  #unacknowledged = new Set();
  #link = null;
  #running = false;
  #failures = 0;
  #websocketFailures = 0;
  #slot = null;
  #reconnectAfterMs = null;
  #heartbeatMs = 30_000;
  #lastHeard = 0;
  #timers = new Map();

  /**
   * @param {object} options
   * @param {string} options.url          ws:// or wss:// address of /ws/notifications
   * @param {string} [options.sseUrl]     http(s) address of /sse; derived from `url` by default
   * @param {string|function} options.token  the JWT, or a function that returns (a promise of) a fresh one
   * @param {"auto"|"websocket"|"sse"} [options.transport]
   * @param {Storage} [options.storage]   where cursors and ids are kept; null keeps them in memory
   * @param {string} [options.storageKey]
   */
  constructor(options) {
    super();
    this.#options = { transport: "auto", storage: globalThis.localStorage, storageKey: "herald", ...options };
    this.#options.sseUrl ??= options.url.replace(/^ws/, "http").replace(/\/(ws\/notifications|connect)$/, "/sse");
    this.#load();
  }

  start() {
    if (this.#running) return;
    this.#running = true;
    this.#open();
  }

  stop() {
    this.#running = false;
    for (const name of [...this.#timers.keys()]) this.#cancel(name);
    this.#link?.close();
    this.#link = null;
    this.#save();
    this.#state("stopped");
  }

  /** Marks as read here and on the user's other devices. */
  read(ids) {
    for (const some of chunks(ids)) this.#link?.send({ type: "read", ids: some });
  }

  /** Contiguous position per stream: what a resume would present. A stream not known yet is left out. */
  get cursors() {
    const known = [...this.#cursors].filter(([, cursor]) => cursor.at > 0);
    return Object.fromEntries(known.map(([stream, cursor]) => [stream, cursor.at]));
  }

  // ── connecting ───────────────────────────────────────────────────────────────────────────────

  async #open() {
    const transport = this.#transport();
    this.#state("connecting", transport);
    let token;
    try {
      token = typeof this.#options.token === "function" ? await this.#options.token() : this.#options.token;
    } catch {
      return this.#comeBack();
    }
    if (!this.#running) return;
    const link = transport === "sse" ? new SseLink() : new WebSocketLink();
    this.#link = link;
    this.#reconnectAfterMs = null;
    // Events of a link that has been replaced no longer count.
    const current = (handle) => (...values) => { if (this.#link === link) handle(...values); };
    link.onframe = current((frame) => this.#frame(frame));
    link.onretry = current((ms) => { this.#slot ??= { after_ms_min: 0, after_ms_max: ms }; });
    link.onheard = current(() => { this.#lastHeard = Date.now(); });
    link.onclose = current((code, opened) => this.#closed(code, opened, transport));
    const url = transport === "sse" ? this.#options.sseUrl : this.#options.url;
    link.open(url, token, this.#cursorsText());
  }

  #transport() {
    const asked = this.#options.transport;
    if (asked !== "auto") return asked;
    return this.#websocketFailures >= WEBSOCKET_TRIES ? "sse" : "websocket";
  }

  #closed(code, opened, transport) {
    this.#link = null;
    this.#cancel("heartbeat");
    this.#cancel("hole");
    this.#cancel("behind");
    if (transport === "websocket") this.#websocketFailures = opened ? 0 : this.#websocketFailures + 1;
    if (!this.#running) return;
    if (!comesBack(code)) {
      this.#running = false;
      return this.#state("refused", transport, code);
    }
    this.#comeBack(code);
  }

  #comeBack(code) {
    const delay = this.#delay();
    this.#failures += 1;
    this.#state("waiting", undefined, code);
    this.#after("open", delay, () => this.#open());
  }

  /** What the server asked for beats the slot, the slot beats our own back-off and its cap. */
  #delay() {
    if (this.#reconnectAfterMs !== null) return this.#reconnectAfterMs;
    const backoff = Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.#failures) * (0.5 + Math.random() / 2);
    if (!this.#slot) return backoff;
    const { after_ms_min: min, after_ms_max: max } = this.#slot;
    if (this.#failures === 0) return min + Math.random() * (max - min);
    return Math.max(min, backoff);
  }

  // ── frames ───────────────────────────────────────────────────────────────────────────────────

  #frame(frame) {
    switch (frame.type) {
      case "welcome": return this.#welcome(frame);
      case "notification": return this.#item(frame);
      case "read": return this.#item(frame);
      case "sync": return this.#synced(frame);
      case "gap": return this.#gap(frame);
      case "slot": this.#slot = frame; return;
      case "reconnect": this.#reconnectAfterMs = frame.after_ms; return;
      case "auth_expiring": return this.#refresh();
      case "error": return this.#refused(frame);
    }
  }

  #welcome(frame) {
    this.#failures = 0;
    this.#heartbeatMs = frame.heartbeat_ms ?? this.#heartbeatMs;
    this.#slot = frame.slot ?? this.#slot;
    this.#state("open", this.#link.transport);
    if (Object.keys(this.cursors).length === 0) this.#sync();
    this.#flushAcknowledgements();
    this.#watchSilence();
  }

  #item(item) {
    this.#cursor(item.stream).advance(item.prev, item.pos);
    if (item.type === "read") {
      this.dispatchEvent(new CustomEvent("read", { detail: { ids: item.ids } }));
    } else {
      this.#acknowledge(item.id);
      if (!this.#seen.has(item.id)) {
        this.#remember(item.id);
        this.dispatchEvent(new CustomEvent("notification", { detail: item }));
      }
    }
    this.#checkHoles();
    this.#saveSoon();
  }

  #synced(frame) {
    for (const item of frame.items) this.#item(item);
    for (const [stream, range] of Object.entries(frame.range ?? {})) this.#cursor(stream).cover(range.from, range.to);
    for (const [stream, at] of Object.entries(frame.cursors)) {
      // Without a cursor of ours the answer is where to begin; unrecovered, it is where to go on.
      if (!frame.recovered || this.#cursor(stream).at === 0) this.#cursor(stream).jump(at);
    }
    if (!frame.recovered) {
      this.dispatchEvent(new CustomEvent("unrecovered", { detail: { streams: Object.keys(frame.cursors) } }));
    }
    this.#saveSoon();
    if (frame.has_more) this.#sync();
    else this.#checkHoles();
  }

  #gap(frame) {
    if (frame.cause === "collapsed" || frame.cause === "expired") {
      this.#cursor(frame.stream).cover(frame.from, frame.to);
      this.#saveSoon();
      return this.#checkHoles();
    }
    this.#after("behind", frame.sync_after_ms ?? 0, () => this.#sync());
  }

  /** A sync that could not be served now, or while another is on its way, is asked again later. */
  #refused(frame) {
    if (frame.code === "unavailable") this.#after("behind", 1_000 + Math.random() * 2_000, () => this.#sync());
    this.dispatchEvent(new CustomEvent("error", { detail: frame }));
  }

  /** A hole that lasts asks for a sync; one that fills by itself (lanes reorder) does not. */
  #checkHoles() {
    const holes = [...this.#cursors.values()].some((cursor) => cursor.hasHole);
    if (!holes) return this.#cancel("hole");
    if (!this.#timers.has("hole")) {
      this.#after("hole", HOLE_PATIENCE_MS, () => {
        this.#sync();
        this.#checkHoles();
      });
    }
  }

  #sync() {
    this.#link?.send({ type: "sync", cursors: this.cursors });
  }

  async #refresh() {
    if (typeof this.#options.token !== "function") return;
    const link = this.#link;
    const token = await this.#options.token();
    link?.send({ type: "auth", token });
  }

  #cursor(stream) {
    if (!this.#cursors.has(stream)) this.#cursors.set(stream, new Cursor());
    return this.#cursors.get(stream);
  }

  #cursorsText() {
    return Object.entries(this.cursors).map(([stream, at]) => `${stream}=${at}`).join(",");
  }

  // ── acknowledgements ─────────────────────────────────────────────────────────────────────────

  #acknowledge(id) {
    this.#unacknowledged.add(id);
    if (!this.#timers.has("ack")) this.#after("ack", ACK_LINGER_MS, () => this.#flushAcknowledgements());
  }

  #flushAcknowledgements() {
    for (const ids of chunks([...this.#unacknowledged])) {
      if (!this.#link?.send({ type: "ack", ids })) return;
      for (const id of ids) this.#unacknowledged.delete(id);
    }
  }

  // ── silence ──────────────────────────────────────────────────────────────────────────────────

  /** Browsers hide WebSocket pings, so after two silent intervals we ask, after a third we leave. */
  #watchSilence() {
    this.#lastHeard = Date.now();
    const check = () => {
      const silent = Date.now() - this.#lastHeard;
      if (silent > 3 * this.#heartbeatMs) this.#link?.fail();
      else if (silent > 2 * this.#heartbeatMs) this.#link?.send({ type: "ping" });
      if (this.#link) this.#after("heartbeat", this.#heartbeatMs / 2, check);
    };
    this.#after("heartbeat", this.#heartbeatMs / 2, check);
  }

  // ── memory ───────────────────────────────────────────────────────────────────────────────────

  #remember(id) {
    this.#seen.add(id);
    if (this.#seen.size > SEEN_IDS_MAX) this.#seen.delete(this.#seen.values().next().value);
  }

  #load() {
    try {
      const saved = JSON.parse(this.#options.storage?.getItem(this.#options.storageKey) ?? "null");
      for (const [stream, at] of Object.entries(saved?.cursors ?? {})) this.#cursors.set(stream, new Cursor(at));
      this.#seen = new Set(saved?.seen ?? []);
    } catch {
      // Damaged state is as good as none: the first sync brings the newest items.
    }
  }

  #saveSoon() {
    if (!this.#timers.has("save")) this.#after("save", SAVE_LINGER_MS, () => this.#save());
  }

  #save() {
    const state = { cursors: this.cursors, seen: [...this.#seen] };
    try {
      this.#options.storage?.setItem(this.#options.storageKey, JSON.stringify(state));
    } catch {
      // A full storage costs a longer sync after the next reload, nothing else.
    }
  }

  // ── small things ─────────────────────────────────────────────────────────────────────────────

  #state(state, transport, code) {
    this.dispatchEvent(new CustomEvent("state", { detail: { state, transport, code } }));
  }

  #after(name, ms, run) {
    this.#cancel(name);
    this.#timers.set(name, setTimeout(() => { this.#timers.delete(name); run(); }, ms));
  }

  #cancel(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

function* chunks(ids) {
  for (let i = 0; i < ids.length; i += IDS_PER_FRAME_MAX) yield ids.slice(i, i + IDS_PER_FRAME_MAX);
}

/** What both transports offer: open, send (false when it can't), close, fail. */
class WebSocketLink {
  transport = "websocket";
  #socket;
  #opened = false;
  #ended = false;

  open(url, token, cursors) {
    const address = cursors ? `${url}?cursors=${encodeURIComponent(cursors)}` : url;
    this.#socket = new WebSocket(address, ["herald.v1", `bearer.${token}`]);
    this.#socket.onopen = () => { this.#opened = true; };
    this.#socket.onmessage = (event) => {
      this.onheard();
      this.onframe(JSON.parse(event.data));
    };
    this.#socket.onclose = (event) => this.#end(event.code);
  }

  send(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  close() {
    this.#socket?.close(1000);
  }

  /** The other side is gone without a word: don't wait for a close handshake. */
  fail() {
    this.#socket?.close();
    this.#end(1006);
  }

  #end(code) {
    if (this.#ended) return;
    this.#ended = true;
    this.onclose(code, this.#opened);
  }
}

/** SSE down by a streaming fetch (the token stays out of the address), plain POSTs up. */
class SseLink {
  transport = "sse";
  #abort = new AbortController();
  #base;
  #headers;
  #open = false;
  #ended = false;

  async open(url, token, cursors) {
    this.#base = url;
    this.#headers = { authorization: `Bearer ${token}` };
    const headers = { ...this.#headers, accept: "text/event-stream" };
    if (cursors) headers["last-event-id"] = cursors;
    let code = 1006;
    try {
      const response = await fetch(`${url}/notifications`, { headers, signal: this.#abort.signal, cache: "no-store" });
      if (response.status === 204) code = 4500;
      else if (response.status === 401 || response.status === 403) code = 4501;
      else if (response.ok) await this.#read(response.body);
    } catch {
      // Network errors and aborts end below like any close.
    }
    this.#end(code);
  }

  send(frame) {
    if (!this.#open) return false;
    const { type, ...body } = frame;
    if (type === "ping") return true;
    if (type === "auth") {
      this.#headers = { authorization: `Bearer ${frame.token}` };
      return true;
    }
    this.#post(type, body);
    return true;
  }

  close() {
    this.#ended = true;
    this.#abort.abort();
  }

  fail() {
    this.#end(1006);
    this.#abort.abort();
  }

  async #post(type, body) {
    try {
      const response = await fetch(`${this.#base}/${type}`, {
        method: "POST",
        headers: { ...this.#headers, "content-type": "application/json" },
        body: JSON.stringify(body),
      });
      if (type !== "sync") return;
      this.onframe(response.ok ? await response.json() : { type: "error", code: "unavailable" });
    } catch {
      // The stream will notice too, and the resume repeats what matters.
    }
  }

  async #read(body) {
    this.#open = true;
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      this.onheard();
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) this.#event(event);
    }
  }

  #event(text) {
    const data = [];
    for (const line of text.split("\n")) {
      if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      else if (line.startsWith("retry:")) this.onretry(Number(line.slice(6)));
    }
    if (data.length > 0) this.onframe(JSON.parse(data.join("\n")));
  }

  #end(code) {
    if (this.#ended) return;
    this.#ended = true;
    this.#open = false;
    this.onclose(code, true);
  }
}
