const { test, before, after } = require("node:test");
const assert = require("node:assert/strict");
const { Standalone, until, browser } = require("./standalone.cjs");

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
  await page.goto(`${herald.url}/?user=${user}&transport=${transport}`);
  await page.waitForSelector('#state[data-state="open"]');
  return page;
}

const titles = (page) => page.locator("#inbox .item strong").allTextContents();

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
    const expected = [];
    let posted = 0;
    const post = async (count) => {
      for (let i = 0; i < count; i += 1) {
        // A title is used once: a post cut off by the kill may have been taken without its answer.
        const title = `n${posted}`;
        posted += 1;
        try {
          await herald.post(user, title);
        } catch {
          return; // Not answered 202: nothing was promised.
        }
        expected.push(title);
      }
    };
    await post(10);
    const flowing = post(200);
    await until("some arrived", async () => (await titles(page)).length > 15);
    await herald.kill();
    await flowing;
    await herald.run();
    await post(20);
    await until("all arrived", async () => expected.every((title) => new Set(titles.last).has(title))
      || ((titles.last = await titles(page)), false));
    const shown = titles.last.filter((title) => expected.includes(title));
    assert.equal(shown.length, expected.length, "each exactly once");
    const holes = await page.evaluate(() => Object.keys(window.heraldClient.cursors).length);
    assert.ok(holes >= 1, "the page has a cursor");
    await page.context().close();
  });
}

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
