// A server for the client module that does what a test says, in a time that stands still until it is moved on.
const { readFileSync } = require("node:fs");
const path = require("node:path");

const source = readFileSync(path.join(__dirname, "../../src/console/herald-client.js"));
const module_ = import(`data:text/javascript;base64,${source.toString("base64")}`);

/** What the test's time does not drive: promises and streams. */
async function settled() {
  for (let turn = 0; turn < 8; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

class Storage {
  #items = new Map();

  getItem(key) {
    return this.#items.get(key) ?? null;
  }

  setItem(key, value) {
    this.#items.set(key, value);
  }
}

/** One connection of the client, by either transport; `frames` is what it said by WebSocket. */
class Connection {
  frames = [];

  constructor(transport, url) {
    Object.assign(this, { transport, url, awayMs: new URL(url).searchParams.get("away_ms") });
  }

  async welcome() {
    const slot = { after_ms_min: 2_000, after_ms_max: 6_000 };
    await this.say({ type: "welcome", heartbeat_ms: 30_000, slot });
  }
}

class Server {
  connections = [];
  /** Answers to streams and posts; a status, or [status, headers, body]. */
  answers = { stream: 200, ack: 204, read: 204, sync: 503 };
  /** What was posted: { type, ids }, also what was refused. */
  posts = [];

  constructor(t) {
    t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
    // In the middle of every spread; the test may say otherwise.
    this.random = 0.5;
    t.mock.method(Math, "random", () => this.random);
    this.clock = t.mock.timers;
    const server = this;
    const former = { WebSocket: globalThis.WebSocket, fetch: globalThis.fetch };
    globalThis.WebSocket = class extends FakeSocket {
      constructor(url) {
        super(url);
        server.connections.push(this.connection);
      }
    };
    globalThis.fetch = (url, options) => this.#fetch(url, options);
    t.after(() => Object.assign(globalThis, former));
  }

  get last() {
    return this.connections.at(-1);
  }

  /** In steps, since a timer that fires reads the time that was ticked to. */
  async pass(ms) {
    for (let left = ms; left > 0; left -= 50) {
      this.clock.tick(Math.min(left, 50));
      await settled();
    }
  }

  /** How long the client waits before it connects again. */
  async comesBackAfter(atMost = 60_000) {
    const before = this.connections.length;
    for (let ms = 0; ms <= atMost; ms += 50) {
      if (this.connections.length > before) return ms;
      await this.pass(50);
    }
    throw new Error("it does not come back");
  }

  async #fetch(url, { headers, body, signal }) {
    const type = new URL(url).pathname.split("/").at(-1);
    const answer = this.answers[type === "notifications" ? "stream" : type];
    const [status, more, text] = Array.isArray(answer) ? answer : [answer, {}, null];
    if (type !== "notifications") {
      this.posts.push({ type, ...JSON.parse(body) });
      if (status === "never") return new Promise(() => {});
      return new Response(text, { status, headers: more });
    }
    const connection = new Connection("sse", url);
    connection.cursors = headers["last-event-id"];
    this.connections.push(connection);
    if (status === "broken") throw new TypeError("network error");
    if (status !== 200) return new Response(text, { status, headers: more });
    const stream = new ReadableStream({
      start(controller) {
        signal.addEventListener("abort", () => { connection.aborted = true; });
        connection.say = async (frame) => {
          controller.enqueue(new TextEncoder().encode(`event: ${frame.type}\ndata: ${JSON.stringify(frame)}\n\n`));
          await settled();
        };
        connection.end = async () => {
          controller.close();
          await settled();
        };
      },
    });
    return new Response(stream, { status });
  }
}

class FakeSocket {
  static OPEN = 1;
  readyState = 0;

  constructor(url) {
    this.connection = new Connection("websocket", url);
    this.connection.cursors = new URL(url).searchParams.get("cursors");
    this.connection.say = async (frame) => {
      this.readyState = FakeSocket.OPEN;
      this.onmessage({ data: JSON.stringify(frame) });
      await settled();
    };
    this.connection.end = async (code = 1006) => {
      this.readyState = 3;
      this.onclose({ code });
      await settled();
    };
  }

  send(text) {
    this.connection.frames.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
    this.connection.closed = true;
  }
}

/** A client of that server, and what it tells the page. */
async function connect(server, options = {}) {
  const { HeraldClient } = await module_;
  const client = new HeraldClient({
    url: "ws://gateway.test/ws/notifications", token: "t", storage: null, ...options,
  });
  const told = { notification: [], read: [], state: [], unrecovered: [] };
  for (const [type, events] of Object.entries(told)) client.addEventListener(type, ({ detail }) => events.push(detail));
  client.start();
  await settled();
  return { client, told };
}

function item(n, { prev = n - 1, id = `id-${n}` } = {}) {
  return { type: "notification", id, stream: "user:local", pos: n, prev, title: `n${n}` };
}

module.exports = { module_, Server, Storage, connect, item, settled };
