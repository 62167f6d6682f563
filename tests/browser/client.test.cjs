// The client module against a server that does what each test says, without a browser.
const { test } = require("node:test");
const assert = require("node:assert/strict");
const { Server, Storage, connect, item, settled } = require("./fakes.cjs");

const state = ({ told }) => told.state.at(-1).state;
const idsOf = (type, frames) => frames.filter((frame) => frame.type === type).flatMap((frame) => frame.ids);
const ids = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => `id-${from + i}`);

// ── coming back ────────────────────────────────────────────────────────────────────────────────

test("after a break it comes back in the slot, at its place by chance", async (t) => {
  for (const [random, expected] of [[0, 2_000], [0.5, 4_000], [0.999, 6_000]]) {
    await t.test(String(random), async (t) => {
      const server = new Server(t);
      await connect(server);
      await server.last.welcome();
      server.random = random;
      await server.last.end(1006);
      assert.equal(await server.comesBackAfter(), expected);
    });
  }
});

test("who comes back says how long it was away, until it is welcomed", async (t) => {
  for (const transport of ["websocket", "sse"]) {
    await t.test(transport, async (t) => {
      const server = new Server(t);
      await connect(server, { transport });
      assert.equal(server.last.awayMs, null);
      await server.last.welcome();
      await server.last.end(1006);
      const away = await server.comesBackAfter();
      assert.equal(server.last.awayMs, String(away));
      await server.last.end(1006);
      assert.equal(server.last.awayMs, String(away));
      const longer = away + await server.comesBackAfter();
      assert.equal(server.last.awayMs, String(longer));
    });
  }
});

test("what the server asks for beats the slot, once", async (t) => {
  const server = new Server(t);
  await connect(server);
  await server.last.welcome();
  await server.last.say({ type: "reconnect", after_ms: 300, reason: "drain" });
  await server.last.end(1012);
  assert.equal(await server.comesBackAfter(), 300);
  await server.last.end(1006);
  assert.ok(await server.comesBackAfter() >= 2_000, "not before the slot begins");
});

test("a slot that begins late beats the cap of the back-off, and a later slot replaces the first", async (t) => {
  const server = new Server(t);
  await connect(server, { transport: "websocket" });
  await server.last.welcome();
  await server.last.say({ type: "slot", after_ms_min: 50_000, after_ms_max: 50_000 });
  await server.last.end(1006);
  for (let tries = 0; tries < 10; tries += 1) {
    assert.equal(await server.comesBackAfter(), 50_000);
    await server.last.end(1006);
  }
});

test("without a slot it backs off, up to 30 s", async (t) => {
  const server = new Server(t);
  await connect(server, { transport: "websocket" });
  server.random = 0.999;
  const delays = [];
  for (let tries = 0; tries < 8; tries += 1) {
    await server.last.end(1006);
    delays.push(await server.comesBackAfter());
  }
  assert.deepEqual(delays, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
});

test("a connection that brings no welcome is given up", async (t) => {
  for (const transport of ["websocket", "sse"]) {
    await t.test(transport, async (t) => {
      const server = new Server(t);
      const running = await connect(server, { transport });
      await server.pass(14_900);
      assert.equal(state(running), "connecting");
      await server.pass(200);
      assert.equal(state(running), "waiting");
      await server.comesBackAfter();
    });
  }
});

test("a token that can't be had is asked for again, at connect and while connected", async (t) => {
  const server = new Server(t);
  const tokens = [new Error("away"), "a", new Error("away"), "b"];
  const unhandled = [];
  const note = (reason) => unhandled.push(reason);
  process.on("unhandledRejection", note);
  t.after(() => process.off("unhandledRejection", note));
  const token = async () => {
    const next = tokens.shift();
    if (next instanceof Error) throw next;
    return next;
  };
  const running = await connect(server, { token });
  assert.equal(state(running), "waiting");
  await server.comesBackAfter();
  await server.last.welcome();
  await server.last.say({ type: "auth_expiring", in_ms: 30_000 });
  assert.equal(state(running), "open", "the old one still counts");
  await server.last.say({ type: "auth_expiring", in_ms: 10_000 });
  assert.deepEqual(server.last.frames.filter(({ type }) => type === "auth"), [{ type: "auth", token: "b" }]);
  assert.deepEqual(unhandled, []);
});

test("stopped and started again while a token is fetched it connects once", async (t) => {
  const server = new Server(t);
  const waiting = [];
  const { client } = await connect(server, { token: () => new Promise((resolve) => waiting.push(resolve)) });
  client.stop();
  client.start();
  await settled();
  for (const resolve of waiting) resolve("t");
  await settled();
  assert.equal(server.connections.length, 1);
});

// ── transports ─────────────────────────────────────────────────────────────────────────────────

/** Two WebSockets that get nowhere. */
async function blockWebSocket(server) {
  for (let tries = 0; tries < 2; tries += 1) {
    assert.equal(server.last.transport, "websocket");
    await server.last.end(1006);
    await server.comesBackAfter();
  }
  assert.equal(server.last.transport, "sse");
}

test("auto: where WebSocket gets nowhere twice it is SSE, and at the stream's end WebSocket is tried once", async (t) => {
  const server = new Server(t);
  await connect(server);
  await blockWebSocket(server);
  await server.last.welcome();
  await server.last.end();
  await server.comesBackAfter();
  assert.equal(server.last.transport, "websocket");
  await server.last.end(1006);
  await server.comesBackAfter();
  assert.equal(server.last.transport, "sse");
  await server.last.welcome();
  await server.last.end();
  await server.comesBackAfter();
  assert.equal(server.last.transport, "websocket");
  await server.last.welcome();
  await server.last.end(1006);
  await server.comesBackAfter();
  assert.equal(server.last.transport, "websocket", "it gets through again");
});

test("auto: an outage of everything leaves nobody on SSE", async (t) => {
  const server = new Server(t);
  server.answers.stream = "broken";
  await connect(server);
  await blockWebSocket(server);
  await server.comesBackAfter();
  assert.equal(server.last.transport, "websocket");
  await server.last.end(1006);
  await server.comesBackAfter();
  assert.equal(server.last.transport, "websocket", "two tries again");
});

test("auto: a server that closes before its welcome was reached by WebSocket", async (t) => {
  const server = new Server(t);
  await connect(server);
  for (let tries = 0; tries < 4; tries += 1) {
    assert.equal(server.last.transport, "websocket");
    await server.last.end(4403);
    await server.comesBackAfter();
  }
});

// ── ends ───────────────────────────────────────────────────────────────────────────────────────

test("an event stream's last event counts as a close code", async (t) => {
  for (const [code, expected] of [[1012, "waiting"], [4403, "waiting"], [4510, "refused"], [4501, "refused"]]) {
    await t.test(String(code), async (t) => {
      const server = new Server(t);
      const running = await connect(server, { transport: "sse" });
      await server.last.welcome();
      await server.last.say({ type: "close", code, reason: "why", come_back: expected === "waiting" });
      assert.equal(state(running), expected);
      assert.equal(running.told.state.at(-1).code, code);
      assert.ok(server.last.aborted);
      await server.pass(120_000);
      assert.equal(server.connections.length > 1, expected === "waiting");
    });
  }
});

test("an answer other than 200 says whether to come back, and when", async (t) => {
  const said = (code) => JSON.stringify({ error: "why", code });
  for (const [answer, expected] of [
    [204, "refused"],
    [[401, {}, said(4501)], "refused"],
    [[401, {}, said(4403)], "waiting"],
    [[401, {}, JSON.stringify({ error: "no_token" })], "refused"],
    [403, "refused"],
    [[503, { "retry-after": "7" }, null], 7_000],
    [502, "waiting"],
  ]) {
    await t.test(JSON.stringify(answer), async (t) => {
      const server = new Server(t);
      server.answers.stream = answer;
      const running = await connect(server, { transport: "sse" });
      assert.equal(state(running), expected === "refused" ? "refused" : "waiting");
      if (typeof expected === "number") assert.equal(await server.comesBackAfter(), expected);
    });
  }
});

// ── what it has seen ───────────────────────────────────────────────────────────────────────────

test("a repeated id is not shown, is acknowledged, and moves the cursor", async (t) => {
  const server = new Server(t);
  const { client, told } = await connect(server);
  await server.last.welcome();
  await server.last.say({ type: "sync", items: [], range: {}, cursors: { "user:local": 9 }, recovered: true });
  await server.last.say(item(10, { id: "twice" }));
  await server.pass(6_000);
  await server.last.say(item(11, { id: "twice" }));
  await server.pass(6_000);
  assert.equal(told.notification.length, 1);
  assert.deepEqual(client.cursors, { "user:local": 11 });
  assert.deepEqual(idsOf("ack", server.last.frames), ["twice", "twice"]);
});

test("a hole shows until a sync has closed it", async (t) => {
  const server = new Server(t);
  const { client } = await connect(server);
  await server.last.welcome();
  await server.last.say({ type: "sync", items: [], range: {}, cursors: { "user:local": 9 }, recovered: true });
  await server.last.say(item(12));
  assert.deepEqual([client.hasHole, client.cursors["user:local"]], [true, 9]);
  await server.pass(1_100);
  assert.deepEqual(server.last.frames.at(-1), { type: "sync", cursors: { "user:local": 9 } });
  const range = { "user:local": { from: 9, to: 11 } };
  await server.last.say({ type: "sync", items: [item(10), item(11)], range, cursors: { "user:local": 11 }, recovered: true });
  assert.deepEqual([client.hasHole, client.cursors["user:local"]], [false, 12]);
});

test("a sync that is refused is asked again, ever more rarely, until one is answered", async (t) => {
  const server = new Server(t);
  await connect(server);
  await server.last.welcome();
  const syncs = () => server.last.frames.filter((frame) => frame.type === "sync").length;
  const refuse = () => server.last.say({ type: "error", code: "unavailable", message: "a sync is on its way" });
  assert.equal(syncs(), 1);
  let asked = 1;
  for (const seconds of [1, 2, 4, 8, 16, 16]) {
    await refuse();
    await server.pass(seconds * 1_000 - 50);
    assert.equal(syncs(), asked, `${seconds} s`);
    await server.pass(seconds * 2_000 + 100);
    asked += 1;
    assert.equal(syncs(), asked, `${seconds} s`);
  }
  await server.last.say({ type: "sync", items: [], range: {}, cursors: { "user:local": 9 }, recovered: true });
  await refuse();
  await server.pass(3_100);
  assert.equal(syncs(), asked + 1);
});

test("it remembers the last 1,000 ids, over a reload too, and comes back with its cursors", async (t) => {
  const server = new Server(t);
  const storage = new Storage();
  const first = await connect(server, { storage });
  await server.last.welcome();
  await server.last.say({ type: "sync", items: [], range: {}, cursors: { "user:local": 1 }, recovered: true });
  for (let n = 2; n <= 1_002; n += 1) server.last.say(item(n));
  await server.pass(1_000);
  assert.equal(first.told.notification.length, 1_001);
  // A reload: nobody says goodbye.
  const second = await connect(server, { storage });
  assert.equal(server.last.cursors, "user:local=1002");
  await server.last.welcome();
  for (const n of [1_002, 3, 2]) await server.last.say(item(1_003, { id: `id-${n}` }));
  assert.deepEqual(second.told.notification.map(({ id }) => id), ["id-2"], "only the oldest is forgotten");
});

test("a damaged storage is as good as none", async (t) => {
  const server = new Server(t);
  const storage = new Storage();
  storage.setItem("herald", "{");
  await connect(server, { storage });
  await server.last.welcome();
  assert.deepEqual(server.last.frames, [{ type: "sync", cursors: {} }]);
});

// ── what it says ───────────────────────────────────────────────────────────────────────────────

test("what is read without a connection is said with the next one", async (t) => {
  for (const transport of ["websocket", "sse"]) {
    await t.test(transport, async (t) => {
      const server = new Server(t);
      const { client } = await connect(server, { transport });
      client.read(["early"]);
      await server.pass(1_000);
      const said = () => (transport === "sse" ? server.posts : server.last.frames);
      assert.deepEqual(idsOf("read", said()), []);
      await server.last.welcome();
      assert.deepEqual(idsOf("read", said()), ["early"]);
      await server.last.end();
      client.read(["between"]);
      await server.comesBackAfter();
      await server.last.welcome();
      assert.ok(idsOf("read", said()).includes("between"));
    });
  }
});

test("what waits to be said is bounded: the newest 1,000 ids, 500 a frame", async (t) => {
  const server = new Server(t);
  const { client } = await connect(server);
  client.read(ids(1, 1_500));
  await server.last.welcome();
  await server.pass(600);
  const frames = server.last.frames.filter(({ type }) => type === "read");
  assert.deepEqual(frames.map((frame) => frame.ids), [ids(501, 1_000), ids(1_001, 1_500)]);
});

test("what could not be said is said after a reload", async (t) => {
  const server = new Server(t);
  const storage = new Storage();
  const { client } = await connect(server, { storage });
  client.read(["early"]);
  await server.pass(1_000);
  await connect(server, { storage });
  await server.last.welcome();
  assert.deepEqual(idsOf("read", server.last.frames), ["early"]);
});

test("SSE: what a POST does not take is posted again, when the answer says so", async (t) => {
  for (const [answer, afterMs] of [[[429, { "retry-after": "3" }, null], 3_000], [503, 2_000], ["never", null]]) {
    await t.test(JSON.stringify(answer), async (t) => {
      const server = new Server(t);
      await connect(server, { transport: "sse" });
      await server.last.welcome();
      server.answers.ack = answer;
      await server.last.say(item(1));
      await server.pass(100);
      assert.deepEqual(idsOf("ack", server.posts), ["id-1"]);
      if (afterMs === null) return; // It is on its way: not twice at the same time.
      server.answers.ack = 204;
      await server.pass(afterMs - 100);
      assert.deepEqual(idsOf("ack", server.posts), ["id-1"], "not before its time");
      await server.pass(200);
      assert.deepEqual(idsOf("ack", server.posts), ["id-1", "id-1"]);
      await server.pass(60_000);
      assert.deepEqual(idsOf("ack", server.posts), ["id-1", "id-1"], "it has been taken");
    });
  }
});

test("SSE: what was refused for good is not posted again", async (t) => {
  const server = new Server(t);
  const { client } = await connect(server, { transport: "sse" });
  await server.last.welcome();
  server.answers.read = 400;
  client.read(["odd"]);
  await server.pass(60_000);
  assert.deepEqual(idsOf("read", server.posts), ["odd"]);
});

test("WebSocket: what was said just before a break is said again, what was said long before is not", async (t) => {
  const server = new Server(t);
  const { client } = await connect(server);
  await server.last.welcome();
  client.read(["long before"]);
  await server.pass(6_000);
  await server.last.say({ type: "pong" });
  client.read(["just before"]);
  await server.pass(600);
  assert.deepEqual(idsOf("read", server.last.frames), ["long before", "just before"]);
  await server.last.end(1006);
  await server.comesBackAfter();
  await server.last.welcome();
  assert.deepEqual(idsOf("read", server.last.frames), ["just before"]);
});

test("a read mark that comes back in the stream need not be said again", async (t) => {
  const server = new Server(t);
  const { client, told } = await connect(server);
  await server.last.welcome();
  client.read(["a"]);
  await server.pass(100);
  await server.last.say({ type: "read", ids: ["a"], stream: "user:local", pos: 1, prev: 0 });
  assert.deepEqual(told.read, [{ ids: ["a"] }]);
  await server.last.end(1006);
  await server.comesBackAfter();
  await server.last.welcome();
  assert.deepEqual(idsOf("read", server.last.frames), []);
});

test("however much arrives, it stays below ten messages a second", async (t) => {
  const server = new Server(t);
  const { client } = await connect(server);
  await server.last.welcome();
  for (let n = 1; n <= 200; n += 1) {
    await server.last.say(item(n));
    client.read([`id-${n}`]);
    await server.pass(50);
  }
  assert.ok(server.last.frames.length < 5 * 10, `${server.last.frames.length} messages in 10 s`);
  await server.pass(600);
  assert.deepEqual(idsOf("ack", server.last.frames), ids(1, 200));
});
