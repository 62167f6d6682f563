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
//  * it falls back to SSE where WebSocket does not get through, with the same guarantees, and tries WebSocket
//    again when that stream ends;
//  * acknowledgements and read marks are kept until the server has them, also while there is no connection;
//  * all of that survives a reload in the storage you give it.
//
// Events: `notification` (detail: the item), `read` (detail: { ids }), `state` (detail: { state, transport }),
// `unrecovered` (detail: { streams }): the server could not vouch that nothing is missing; reload the inbox.
// State `refused` is the end: the server said by its close code (in `detail`) not to come back.

const AHEAD_RANGES_MAX = 256;
const SEEN_IDS_MAX = 1000;
const IDS_PER_FRAME_MAX = 500;
const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 30_000;
const HOLE_PATIENCE_MS = 1_000;
const SYNC_DOUBLINGS_MAX = 4;
// The server closes a client that sends more than 10 messages a second for long.
const TELL_LINGER_MS = 50;
const TELL_PAUSE_MS = 500;
const TELL_AGAIN_MS = 2_000;
const UNTOLD_IDS_MAX = 1_000;
const SETTLED_MS = 5_000;
const SAVE_LINGER_MS = 200;
const PATIENCE_MS = 15_000;
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

  /** Everything in (from, to] is accounted for: an item has come and nothing lies between its `prev` and its `pos`. */
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

/** Ids the server has to hear of, kept until it has: the newest UNTOLD_IDS_MAX of them. */
class Outbox {
  #ids = new Map(); // id → whether it is on its way

  get ids() {
    return [...this.#ids.keys()];
  }

  add(ids) {
    for (const id of ids) this.#ids.set(id, false);
    for (const id of this.ids.slice(0, -UNTOLD_IDS_MAX)) this.#ids.delete(id);
  }

  /** A frame's worth of those not on their way: now they are. */
  take() {
    const waiting = [...this.#ids].filter(([, isUnderway]) => !isUnderway);
    const ids = waiting.slice(0, IDS_PER_FRAME_MAX).map(([id]) => id);
    for (const id of ids) this.#ids.set(id, true);
    return ids;
  }

  /** Except what has been added again meanwhile: a repeat may say that the first did not arrive. */
  arrived(ids) {
    for (const id of ids) if (this.#ids.get(id)) this.#ids.delete(id);
  }

  failed(ids) {
    for (const id of ids) if (this.#ids.has(id)) this.#ids.set(id, false);
  }
}

/** Whether to come back after this close code. */
export function comesBack(code) {
  return code === 1001 || code === 1006 || code === 1012 || (code >= 4000 && code <= 4499);
}

export class HeraldClient extends EventTarget {
  #options;
  #cursors = new Map();
  #seen = new Set();
  #outboxes = { ack: new Outbox(), read: new Outbox() };
  #link = null;
  #welcomed = false;
  #running = false;
  #attempts = 0;
  #failures = 0;
  /** Since the last answer to one. */
  #syncsRefused = 0;
  #websocketFailures = 0;
  #slot = null;
  #reconnectAfterMs = null;
  #heartbeatMs = 30_000;
  #lastHeard = 0;
  /** When the last connection that was welcomed ended, until the next one is. */
  #lostAt = null;
  #timers = new Map();

  /**
   * @param {object} options
   * @param {string} options.url          ws:// or wss:// address of /ws/notifications
   * @param {string} [options.sseUrl]     http(s) address of /sse; derived from `url` by default
   * @param {string|function} options.token  the JWT, or a function that returns (a promise of) a fresh one
   * @param {"auto"|"websocket"|"sse"} [options.transport]
   * @param {Storage} [options.storage]   where it keeps what has to survive a reload; null: in memory
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
    globalThis.addEventListener?.("pagehide", this.#save);
    this.#open();
  }

  stop() {
    this.#running = false;
    this.#attempts += 1;
    globalThis.removeEventListener?.("pagehide", this.#save);
    for (const name of [...this.#timers.keys()]) this.#cancel(name);
    this.#link?.close();
    this.#link = null;
    this.#welcomed = false;
    this.#save();
    this.#state("stopped");
  }

  /** Marks as read here and on the user's other devices, once there is a connection. */
  read(ids) {
    this.#tell("read", ids);
  }

  /** Contiguous position per stream: what a resume would present. A stream not known yet is left out. */
  get cursors() {
    const known = [...this.#cursors].filter(([, cursor]) => cursor.at > 0);
    return Object.fromEntries(known.map(([stream, cursor]) => [stream, cursor.at]));
  }

  /** Something is missing at this moment: the next sync brings it. */
  get hasHole() {
    return [...this.#cursors.values()].some((cursor) => cursor.hasHole);
  }

  // ── connecting ───────────────────────────────────────────────────────────────────────────────

  async #open() {
    const attempt = ++this.#attempts;
    const transport = this.#transport();
    this.#state("connecting", transport);
    let token;
    try {
      token = await this.#token();
    } catch {
      if (attempt === this.#attempts) this.#comeBack();
      return;
    }
    if (attempt !== this.#attempts) return;
    const link = transport === "sse" ? new SseLink() : new WebSocketLink();
    this.#link = link;
    // Events of a link that has been replaced no longer count.
    const current = (handle) => (...values) => { if (this.#link === link) handle(...values); };
    link.onframe = current((frame) => this.#frame(frame));
    link.onheard = current(() => { this.#lastHeard = Date.now(); });
    link.onclose = current((code) => this.#closed(code, transport));
    // A proxy may take the connection and let nothing through.
    this.#after("welcome", PATIENCE_MS, () => link.fail());
    const url = transport === "sse" ? this.#options.sseUrl : this.#options.url;
    const awayMs = this.#lostAt === null ? null : Date.now() - this.#lostAt;
    link.open(url, token, this.#cursorsText(), awayMs);
  }

  async #token() {
    return typeof this.#options.token === "function" ? this.#options.token() : this.#options.token;
  }

  #transport() {
    if (this.#options.transport !== "auto") return this.#options.transport;
    return this.#websocketFailures >= WEBSOCKET_TRIES ? "sse" : "websocket";
  }

  #closed(code, transport) {
    if (this.#welcomed) this.#lostAt = Date.now();
    const gotThrough = this.#welcomed || code !== 1006;
    // After a stream that got through WebSocket is tried once. Where neither did, it was not for WebSocket.
    if (transport === "websocket") this.#websocketFailures = gotThrough ? 0 : this.#websocketFailures + 1;
    else this.#websocketFailures = gotThrough ? WEBSOCKET_TRIES - 1 : 0;
    this.#link = null;
    this.#welcomed = false;
    for (const name of ["welcome", "heartbeat", "hole", "behind"]) this.#cancel(name);
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
    const asked = this.#reconnectAfterMs;
    this.#reconnectAfterMs = null;
    if (asked !== null) return asked;
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
    this.#welcomed = true;
    this.#lostAt = null;
    this.#cancel("welcome");
    this.#heartbeatMs = frame.heartbeat_ms ?? this.#heartbeatMs;
    this.#slot = frame.slot ?? this.#slot;
    this.#state("open", this.#link.transport);
    if (Object.keys(this.cursors).length === 0) this.#sync();
    this.#tellNow();
    this.#watchSilence();
  }

  #item(item) {
    this.#cursor(item.stream).cover(item.prev, item.pos);
    if (item.type === "read") {
      this.#outboxes.read.arrived(item.ids);
      this.#emit("read", { ids: item.ids });
    } else {
      this.#tell("ack", [item.id]);
      if (!this.#seen.has(item.id)) {
        this.#remember(item.id);
        this.#emit("notification", item);
      }
    }
    this.#checkHoles();
    this.#saveSoon();
  }

  #synced(frame) {
    this.#syncsRefused = 0;
    for (const item of frame.items) this.#item(item);
    for (const [stream, range] of Object.entries(frame.range ?? {})) this.#cursor(stream).cover(range.from, range.to);
    for (const [stream, at] of Object.entries(frame.cursors)) {
      // Without a cursor of ours the answer is where to begin; unrecovered, it is where to go on.
      if (!frame.recovered || this.#cursor(stream).at === 0) this.#cursor(stream).jump(at);
    }
    if (!frame.recovered) this.#emit("unrecovered", { streams: Object.keys(frame.cursors) });
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

  /** A sync that could not be served now, or while another is on its way, is asked again later, ever more rarely. */
  #refused(frame) {
    if (frame.code === "unavailable") {
      const pause = 1_000 + Math.random() * 2_000;
      this.#after("behind", pause * this.#syncPatience, () => this.#sync());
      this.#syncsRefused = Math.min(this.#syncsRefused + 1, SYNC_DOUBLINGS_MAX);
    }
    this.#emit("error", frame);
  }

  /** A hole that lasts asks for a sync; one that fills by itself (lanes reorder) does not. */
  #checkHoles() {
    if (!this.hasHole) return this.#cancel("hole");
    if (!this.#timers.has("hole")) {
      this.#after("hole", HOLE_PATIENCE_MS * this.#syncPatience, () => {
        this.#sync();
        this.#checkHoles();
      });
    }
  }

  get #syncPatience() {
    return 2 ** this.#syncsRefused;
  }

  #sync() {
    this.#link?.send({ type: "sync", cursors: this.cursors });
  }

  async #refresh() {
    const link = this.#link;
    try {
      const token = await this.#token();
      link?.send({ type: "auth", token });
    } catch {
      // The server closes when the old one runs out, and the next connection asks for one again.
    }
  }

  #cursor(stream) {
    if (!this.#cursors.has(stream)) this.#cursors.set(stream, new Cursor());
    return this.#cursors.get(stream);
  }

  #cursorsText() {
    return Object.entries(this.cursors).map(([stream, at]) => `${stream}=${at}`).join(",");
  }

  // ── acknowledgements and read marks ──────────────────────────────────────────────────────────

  #tell(type, ids) {
    this.#outboxes[type].add(ids);
    this.#saveSoon();
    if (!this.#timers.has("tell")) this.#after("tell", TELL_LINGER_MS, () => this.#tellNow());
  }

  /** Says what waits; what comes meanwhile leaves together after the pause. Without a connection: by `welcome`. */
  #tellNow() {
    if (!this.#welcomed) return;
    for (const [type, outbox] of Object.entries(this.#outboxes)) {
      const ids = outbox.take();
      if (ids.length > 0) this.#say(type, outbox, ids);
    }
  }

  async #say(type, outbox, ids) {
    this.#after("tell", TELL_PAUSE_MS, () => this.#tellNow());
    const againAfterMs = await this.#link.tell({ type, ids });
    if (againAfterMs === null) outbox.arrived(ids);
    else {
      outbox.failed(ids);
      if (this.#running) this.#after("tell", againAfterMs, () => this.#tellNow());
    }
    this.#saveSoon();
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
      for (const [type, ids] of Object.entries(saved?.untold ?? {})) this.#outboxes[type]?.add(ids);
    } catch {
      // Damaged state is as good as none: the first sync brings the newest items.
    }
  }

  #saveSoon() {
    if (!this.#timers.has("save")) this.#after("save", SAVE_LINGER_MS, () => this.#save());
  }

  #save = () => {
    const untold = { ack: this.#outboxes.ack.ids, read: this.#outboxes.read.ids };
    const state = { cursors: this.cursors, seen: [...this.#seen], untold };
    try {
      this.#options.storage?.setItem(this.#options.storageKey, JSON.stringify(state));
    } catch {
      // A full storage costs a longer sync after the next reload, nothing else.
    }
  };

  // ── small things ─────────────────────────────────────────────────────────────────────────────

  #emit(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  #state(state, transport, code) { this.#emit("state", { state, transport, code }); }

  #after(name, ms, run) {
    this.#cancel(name);
    this.#timers.set(name, setTimeout(() => { this.#timers.delete(name); run(); }, ms));
  }

  #cancel(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

/** What both links offer: open, send, close, fail, and tell: null once the server has it, or ms to tell it again. */
class WebSocketLink {
  transport = "websocket";
  #socket;
  #told = []; // { at, settle }, oldest first
  #ended = false;

  open(url, token, cursors, awayMs) {
    const query = new URLSearchParams();
    if (cursors) query.set("cursors", cursors);
    if (awayMs) query.set("away_ms", awayMs);
    this.#socket = new WebSocket(query.size ? `${url}?${query}` : url, ["herald.v1", `bearer.${token}`]);
    this.#socket.onmessage = (event) => {
      this.onheard();
      // Nothing says what arrived: it has if the server is still heard some time later.
      while (this.#told.length > 0 && Date.now() - this.#told[0].at >= SETTLED_MS) this.#told.shift().settle(null);
      this.onframe(JSON.parse(event.data));
    };
    this.#socket.onclose = (event) => this.#end(event.code);
  }

  send(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  tell(frame) {
    if (!this.send(frame)) return Promise.resolve(TELL_AGAIN_MS);
    return new Promise((settle) => this.#told.push({ at: Date.now(), settle }));
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
    for (const { settle } of this.#told.splice(0)) settle(TELL_AGAIN_MS);
    this.onclose(code);
  }
}

/** SSE down by a streaming fetch (the token stays out of the address), plain POSTs up. */
class SseLink {
  transport = "sse";
  #abort = new AbortController();
  #base;
  #headers;
  #ended = false;

  async open(url, token, cursors, awayMs) {
    this.#base = url;
    this.#headers = { authorization: `Bearer ${token}` };
    const headers = { ...this.#headers, accept: "text/event-stream" };
    if (cursors) headers["last-event-id"] = cursors;
    let code = 1006;
    try {
      const query = awayMs ? `?away_ms=${awayMs}` : "";
      const response = await fetch(`${url}/notifications${query}`, { headers, signal: this.#abort.signal, cache: "no-store" });
      if (response.status === 200) await this.#read(response.body);
      else code = await this.#refusal(response);
    } catch {
      // Network errors and aborts end below like any close.
    }
    this.#end(code);
  }

  send({ type, ...body }) {
    if (type === "auth") this.#headers = { authorization: `Bearer ${body.token}` };
    else if (type === "sync") this.#sync(body);
    return true;
  }

  async tell({ type, ids }) {
    const response = await this.#post(type, { ids });
    // What it can't make sense of it will not take later either.
    if (response?.ok || response?.status === 400 || response?.status === 413) return null;
    return retryAfterMs(response) ?? TELL_AGAIN_MS;
  }

  close() {
    this.#ended = true;
    this.#abort.abort();
  }

  fail() { this.#end(1006); }

  async #sync(body) {
    const response = await this.#post("sync", body);
    const frame = response?.ok ? await response.json().catch(() => null) : null;
    this.onframe(frame ?? { type: "error", code: "unavailable" });
  }

  async #post(type, body) {
    try {
      return await fetch(`${this.#base}/${type}`, {
        method: "POST",
        headers: { ...this.#headers, "content-type": "application/json" },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
    } catch {
      return null;
    }
  }

  async #read(body) {
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
    const data = text.split("\n").find((line) => line.startsWith("data:"));
    if (!data) return;
    const frame = JSON.parse(data.slice(5));
    if (frame.type === "close") this.#end(frame.code);
    else this.onframe(frame);
  }

  /** What a WebSocket would have been closed with. */
  async #refusal(response) {
    const after_ms = retryAfterMs(response);
    if (after_ms !== null) this.onframe({ type: "reconnect", after_ms });
    if (response.status === 204) return 4500;
    if (response.status !== 401 && response.status !== 403) return 1006;
    const said = await response.json().catch(() => ({}));
    return said.code ?? 4501;
  }

  #end(code) {
    if (this.#ended) return;
    this.#ended = true;
    this.#abort.abort();
    this.onclose(code);
  }
}

/** Of an answer's Retry-After, or null. */
function retryAfterMs(response) {
  const seconds = Number(response?.headers.get("retry-after") || NaN);
  return Number.isFinite(seconds) ? seconds * 1_000 : null;
}
