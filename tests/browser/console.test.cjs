const { test, before, after } = require("node:test");
const assert = require("node:assert/strict");
const http = require("node:http");
const { Balancer } = require("./balancer.cjs");
const { Standalone, until, browser } = require("./standalone.cjs");
const { assertComplete, head, told, witness } = require("./witness.cjs");

let herald;
let chromium;
before(async () => {
  herald = await Standalone.start();
  chromium = await browser();
});
after(async () => {
  await chromium?.close();
  await herald?.stop();
});

async function open(user, transport) {
  const context = await chromium.newContext();
  const page = await context.newPage();
  page.on("pageerror", (error) => { throw error; });
  await page.addInitScript(witness);
  await page.goto(`${herald.url}/?user=${user}&transport=${transport}`);
  await page.waitForSelector('#state[data-state="open"]');
  return page;
}

for (const transport of ["websocket", "sse"]) {
  test(`what is sent by the form arrives, is acknowledged, and is read on a second tab (${transport})`, async () => {
    const user = `form-${transport}`;
    const first = await open(user, transport);
    const second = await open(user, transport);
    await first.fill("#title", "From the form");
    await first.click("#send button");
    for (const page of [first, second]) {
      await page.waitForSelector('#inbox .item strong:text-is("From the form")');
    }
    await first.waitForSelector('#sent small:has-text("in_app: delivered")');
    assert.equal(await second.textContent("#unread"), "1");
    await first.click("#inbox .item button");
    await second.waitForSelector("#inbox .item.read");
    assert.equal(await second.textContent("#unread"), "0");
    await first.waitForSelector('#sent small:has-text("in_app: read")');
    await first.context().close();
    await second.context().close();
  });

  test(`the process is killed while items flow, and the page ends without hole or repeat (${transport})`, async () => {
    const user = `kill-${transport}`;
    const page = await open(user, transport);
    const ids = [];
    const post = async (count) => {
      try {
        for (let i = 0; i < count; i += 1) ids.push(await herald.post(user, `n${ids.length}`));
      } catch {
        // Not answered 202: nothing was promised.
      }
    };
    await post(10);
    const flowing = post(200);
    await until("some arrived", async () => Object.keys((await told(page)).times).length > 15);
    await herald.kill();
    await flowing;
    await herald.run();
    await post(20);
    await assertComplete(page, ids, async () => head(herald.clients, (await herald.session(user)).token));
    const shown = await page.locator("#inbox .item").evaluateAll((items) => items.map((item) => item.dataset.id));
    assert.deepEqual(shown.sort(), Object.keys((await told(page)).times).sort(), "the page shows what it was told");
    await page.context().close();
  });
}

test("auto where no WebSocket gets through: SSE, over a reload too, and WebSocket once it does", async () => {
  const user = "blocked";
  const balancer = await Balancer.start([herald.clients]);
  balancer.blocksWebSocket = true;
  const page = await (await chromium.newContext()).newPage();
  await page.addInitScript(witness);
  // The console is told of the proxy instead of the gateway.
  await page.route("**/console/session*", async (route) => {
    const session = await (await route.fetch()).json();
    const ws_url = session.ws_url.replace(`:${herald.clients}/`, `:${balancer.port}/`);
    await route.fulfill({ json: { ...session, ws_url } });
  });
  const connected = (by) => page.waitForSelector(`#state:text-is("connected by ${by}")`);
  const headNow = async () => head(herald.clients, (await herald.session(user)).token);
  const post = async (count) => {
    const ids = [];
    for (let i = 0; i < count; i += 1) ids.push(await herald.post(user, `n${i}`));
    return ids;
  };
  await page.goto(`${herald.url}/?user=${user}&transport=auto`);
  await connected("SSE");
  const before = await post(3);
  await assertComplete(page, before, headNow);
  await page.goto("about:blank");
  // Until its connections end the page that was left may still be told something.
  await until("the page is gone", async () => balancer.holding.length === 0);
  const away = await post(2);
  await page.goto(`${herald.url}/?user=${user}&transport=auto`);
  await connected("SSE");
  await assertComplete(page, away, headNow);
  assert.deepEqual(Object.keys((await told(page)).times).sort(), away.sort(), "and nothing of before the reload");

  // Without its cursors it is given all of it again, and tells none of it again.
  await page.evaluate((key) => {
    window.heraldClient.stop();
    sessionStorage.setItem(key, JSON.stringify({ ...JSON.parse(sessionStorage.getItem(key)), cursors: {} }));
  }, `herald:${user}`);
  const later = await post(1);
  await page.reload();
  await connected("SSE");
  await assertComplete(page, later, headNow);
  assert.deepEqual(Object.keys((await told(page)).times), later);

  balancer.blocksWebSocket = false;
  balancer.breakAll();
  const during = await post(2);
  await connected("WebSocket");
  await assertComplete(page, [...later, ...during], headNow);
  await page.context().close();
  await balancer.stop();
});

// The other half, what a gateway says and answers, is in tests/gateway/event_stream.rs.
test("a browser's EventSource brings back the id of a last event, and stops at 204", async () => {
  const asked = [];
  const server = http.createServer((request, response) => {
    if (request.url !== "/stream") return response.end();
    asked.push(request.headers["last-event-id"]);
    if (asked.length > 1) return response.writeHead(204).end();
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end("event: welcome\nretry: 10\ndata: {}\n\nevent: close\nid: closed-4510\ndata: {}\n\n");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const page = await (await chromium.newContext()).newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.evaluate(() => new Promise((resolve) => {
    const source = new EventSource("/stream");
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) resolve(); };
  }));
  assert.deepEqual(asked, [undefined, "closed-4510"]);
  await page.context().close();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

test("of two users asked for at once only the last is shown", async () => {
  const page = await open("before", "websocket");
  await page.evaluate(() => {
    for (const user of ["one", "two"]) {
      document.getElementById("user").value = user;
      document.getElementById("connect").requestSubmit();
    }
  });
  const connected = async (user) => {
    const { api_key } = await herald.session(user);
    const headers = { authorization: `Bearer ${api_key}` };
    return (await fetch(`${herald.url}/v1/users/${user}/presence`, { headers })).json();
  };
  await until("two is connected", async () => (await connected("two")).connected);
  await until("the others are not", async () => !(await connected("one")).connected && !(await connected("before")).connected);
  await herald.post("one", "for one");
  await herald.post("two", "for two");
  await page.waitForSelector('#inbox .item strong:text-is("for two")');
  assert.deepEqual(await page.locator("#inbox .item strong").allTextContents(), ["for two"]);
  await page.context().close();
});

test("who sends without being connected is told what became of it, and why there is no session", async () => {
  const page = await (await chromium.newContext()).newPage();
  await page.goto(herald.url);
  await page.click("#send button");
  await page.waitForSelector('#sent small:has-text("in_app:")');
  await page.fill("#user", "..");
  await page.click("#connect button");
  await page.waitForSelector('#notice:has-text("a user id is not")');
  assert.doesNotMatch(await page.textContent("#notice"), /[{}]/);
  await page.context().close();
});

test("no script that is not ours runs in the page, and no other page shows it as a part of itself", async () => {
  const page = await open("guarded", "websocket");
  const refused = await page.evaluate(() => new Promise((resolve) => {
    document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
    document.body.insertAdjacentHTML("beforeend", '<img src="data:," onerror="alert(1)">');
  }));
  assert.equal(refused, "script-src-attr");
  const { headers } = await fetch(herald.url);
  assert.match(headers.get("content-security-policy"), /frame-ancestors 'none'/);
  await page.context().close();
});

test("a long title and body leave the page usable: the next item is in reach", async () => {
  const page = await open("long", "websocket");
  await page.fill("#title", "T".repeat(8_000));
  await page.fill("#body", Array(2_000).fill("body").join(" "));
  await page.click("#send button");
  await page.waitForSelector("#inbox .item");
  await page.waitForSelector("#sent li");
  for (const list of ["#inbox li", "#sent li"]) {
    const { height } = await page.locator(list).first().boundingBox();
    assert.ok(height < 400, `${list} is ${height} px high`);
  }
  // Clamped, not cut: it can be scrolled to its end.
  assert.equal((await page.textContent("#inbox .item p")).length, 9_999);
  await page.context().close();
});

test("a page of another origin can't connect, and a foreign host name gets no session", async () => {
  const response = await fetch(`http://127.0.0.1:${herald.http}/console/session?user=1`, { headers: {} });
  assert.equal(response.status, 200);
  const page = await (await chromium.newContext()).newPage();
  await page.goto("about:blank");
  const refused = await page.evaluate(async (port) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/ws/notifications`, ["herald.v1"]);
    return new Promise((resolve) => {
      socket.onopen = () => resolve(false);
      socket.onclose = () => resolve(true);
    });
  }, herald.clients);
  assert.ok(refused);
});
