// Counts what the client module tells its page, whatever the page makes of it.
const assert = require("node:assert/strict");
const { until } = require("./standalone.cjs");

/** To run in the page before its own scripts: listens from the moment the page has its client. */
function witness() {
  let client;
  window.told = { times: {}, unrecovered: 0 };
  Object.defineProperty(window, "heraldClient", {
    get: () => client,
    set(made) {
      client = made;
      made.addEventListener("notification", ({ detail: { id } }) => {
        window.told.times[id] = (window.told.times[id] ?? 0) + 1;
      });
      made.addEventListener("unrecovered", () => { window.told.unrecovered += 1; });
    },
  });
}

const told = (page) => page.evaluate(() => window.told);

/**
 * All ids were told, each once, and the client knows that nothing is missing: no hole, and each cursor where the
 * server says its stream ends (`head` asks it).
 */
async function assertComplete(page, ids, head) {
  const missing = async () => {
    const { times } = await told(page);
    return ids.filter((id) => !(id in times));
  };
  let last = [];
  await until("everything is told", async () => (last = await missing()).length === 0, () => `missing: ${last}`);
  const cursors = await head();
  const stands = () => page.evaluate(() => {
    const { hasHole: hole, cursors } = window.heraldClient;
    return { hole, cursors };
  });
  let at;
  await until("the cursors are at the head", async () => {
    at = await stands();
    return !at.hole && JSON.stringify(sorted(at.cursors)) === JSON.stringify(sorted(cursors));
  }, () => `${JSON.stringify(at)}, head ${JSON.stringify(cursors)}`);
  const { times, unrecovered } = await told(page);
  const repeated = Object.entries(times).filter(([, count]) => count !== 1);
  assert.deepEqual(repeated, [], "each exactly once");
  assert.equal(unrecovered, 0, "nothing was left to the page to reload");
}

/** A stream that has nothing yet is at 0 for the server, and not known to a client. */
const sorted = (cursors) => Object.entries(cursors).filter(([, at]) => at > 0).sort();

/** Where the streams of a user end, by a device of its own: what a sync without cursors answers. */
async function head(port, token) {
  const response = await fetch(`http://127.0.0.1:${port}/sse/sync`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: "{}",
  });
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  const answer = await response.json();
  assert.ok(answer.recovered);
  return answer.cursors;
}

module.exports = { witness, told, assertComplete, head };
