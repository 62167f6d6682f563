// What became of a notification by each channel, as the console shows it.
const { test, before, after } = require("node:test");
const assert = require("node:assert/strict");
const { spawn } = require("node:child_process");
const path = require("node:path");
const { Standalone, browser, freePort } = require("./standalone.cjs");

const CACHE = process.env.HERALD_CACHE ?? path.join(__dirname, "../../.cache");

/** The real SMTP server of the other tests: who a mail is for decides what becomes of it. */
class Relay {
  static async start() {
    const relay = new Relay();
    relay.port = await freePort();
    const script = path.join(__dirname, "../testbed/src/smtp.py");
    const python = path.join(CACHE, "python/bin/python");
    const none = ["none", "-", "-", "", ""];
    relay.process = spawn(python, [script, String(relay.port), ...none], { stdio: ["ignore", "pipe", "inherit"] });
    await new Promise((resolve, reject) => {
      relay.process.once("error", reject);
      relay.process.once("exit", () => reject(new Error("no SMTP server: run scripts/install.sh test")));
      relay.process.stdout.on("data", (told) => { if (String(told).includes('"ready"')) resolve(); });
    });
    return relay;
  }

  async stop() {
    const gone = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill("SIGKILL");
    await gone;
  }
}

let relay;
let herald;
let chromium;
before(async () => {
  relay = await Relay.start();
  herald = await Standalone.start({
    HERALD_EMAIL__RELAY: `127.0.0.1:${relay.port}`,
    HERALD_EMAIL__TLS: "none",
    HERALD_EMAIL__FROM: "Shop <no-reply@shop.example>",
  });
  chromium = await browser();
});
after(async () => {
  await chromium?.close();
  await herald?.stop();
  await relay?.stop();
});

async function open(user, address) {
  const { api_key } = await herald.session(user);
  const response = await fetch(`${herald.url}/v1/users/${user}/devices/work`, {
    method: "PUT",
    headers: { authorization: `Bearer ${api_key}` },
    body: JSON.stringify({ kind: "email", address }),
  });
  assert.equal(response.status, 201);
  const page = await (await chromium.newContext()).newPage();
  page.on("pageerror", (error) => { throw error; });
  await page.goto(`${herald.url}/?user=${user}`);
  await page.waitForSelector('#state[data-state="open"]');
  return page;
}

async function send(page, channels) {
  for (const channel of channels) await page.check(`#channels input[value="${channel}"]`);
  await page.click("#send button");
}

const line = (list, channel, state) => `${list} .channel[data-channel="${channel}"][data-state="${state}"]`;

test("each channel of what was sent has its state, its cause and what the provider called it", async () => {
  const page = await open("sent", "ada@example.com");
  await send(page, ["in_app", "push", "email"]);
  await page.waitForSelector(line("#sent", "in_app", "delivered"));
  const mail = page.locator(line("#sent", "email", "sent"));
  await mail.waitFor();
  assert.match(await mail.textContent(), /^email: sent \(1\) · 1 attempt · /);
  assert.match(await mail.getAttribute("title"), /queued as/);
  const push = page.locator(line("#sent", "push", "failed"));
  await push.waitFor();
  assert.match(await push.textContent(), /not_configured/);
  await page.context().close();
});

test("an item of the inbox tells how it was delivered, and goes on telling while it is looked at", async () => {
  const page = await open("looked-at", "later-9@example.com");
  await send(page, ["in_app", "email"]);
  await page.waitForSelector("#inbox .item");
  await page.click("#inbox .item summary");
  const put_off = page.locator(line("#inbox", "email", "pending"));
  await put_off.filter({ hasText: "deferred" }).waitFor();
  assert.match(await put_off.textContent(), /^email: pending · deferred · 1 attempt · /);
  await page.waitForSelector(line("#inbox", "in_app", "delivered"));
  await page.click("#inbox .item button");
  await page.waitForSelector(line("#inbox", "in_app", "read"));
  await page.context().close();
});
