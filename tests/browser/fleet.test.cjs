// One gateway of a fleet is killed, and everything else goes on.
const { test } = require("node:test");
const assert = require("node:assert/strict");
const { Balancer } = require("./balancer.cjs");
const { Fleet } = require("./fleet.cjs");
const { browser, until } = require("./standalone.cjs");
const { assertComplete, head, told, witness } = require("./witness.cjs");

for (const transport of ["websocket", "sse"]) {
  test(`a gateway is killed while items flow: the other one brings all, each once (${transport})`, async (t) => {
    const fleet = await Fleet.start();
    t.after(() => fleet.stop());
    const chromium = await browser();
    t.after(() => chromium.close());
    const balancer = await Balancer.start(fleet.gateways.map(({ clients }) => clients));
    t.after(() => balancer.stop());
    const user = "42";
    const page = await open(chromium, fleet, balancer, user, transport);

    const ids = [];
    let flows = true;
    const flow = (async () => {
      while (flows) {
        ids.push(await fleet.post(user, `n${ids.length}`));
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    })();
    const count = async () => Object.keys((await told(page)).times).length;
    await until("some arrived", async () => await count() > 20);
    const [held] = balancer.holding;
    const [killed, other] = [...fleet.gateways].sort((a) => (a.clients === held ? -1 : 1));
    await killed.kill();
    const before = ids.length;
    await until("it is on the other one", async () => balancer.holding.includes(other.clients));
    assert.ok(ids.length > before, "posts went on without it");
    const arrived = await count();
    await until("items arrive live again", async () => await count() > arrived + 20);
    flows = false;
    await flow;
    // What the dead one had not committed is given to the other one too: the wire repeats it.
    await until("its shard is finished", async () => await fleet.finished() > 0);
    await assertComplete(page, ids, () => head(other.clients, fleet.token(user)));
  });
}

async function open(chromium, fleet, balancer, user, transport) {
  const page = await (await chromium.newContext()).newPage();
  await page.addInitScript(witness);
  await page.goto(fleet.origin);
  await page.evaluate(async ({ url, token, transport }) => {
    const { HeraldClient } = await import("/herald-client.js");
    const client = new HeraldClient({ url, token, transport });
    const open = new Promise((resolve) => {
      client.addEventListener("state", ({ detail }) => { if (detail.state === "open") resolve(); });
    });
    window.heraldClient = client;
    client.start();
    await open;
  }, { url: `ws://127.0.0.1:${balancer.port}/ws/notifications`, token: fleet.token(user), transport });
  return page;
}
