// The client module's cursor rule, without a browser.
const { test } = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const path = require("node:path");

const source = readFileSync(path.join(__dirname, "../../src/console/herald-client.js"));
const client = import(`data:text/javascript;base64,${source.toString("base64")}`);

test("a cursor advances only over what is contiguous", async () => {
  const { Cursor } = await client;
  const cursor = new Cursor(1);
  cursor.advance(5, 9);
  assert.deepEqual([cursor.at, cursor.hasHole], [1, true]);
  cursor.advance(1, 5);
  assert.deepEqual([cursor.at, cursor.hasHole], [9, false]);
});

test("a range that starts above the cursor does not close the hole, and counts once it is closed", async () => {
  const { Cursor } = await client;
  const cursor = new Cursor(1);
  cursor.cover(3, 9);
  assert.deepEqual([cursor.at, cursor.hasHole], [1, true]);
  cursor.advance(1, 3);
  assert.deepEqual([cursor.at, cursor.hasHole], [9, false]);
});

test("what is remembered above a hole is bounded", async () => {
  const { Cursor } = await client;
  const cursor = new Cursor(1);
  for (let i = 0; i < 1000; i += 1) cursor.advance(10 + 2 * i, 11 + 2 * i);
  cursor.cover(1, 10);
  let steps = 0;
  while (cursor.hasHole) {
    cursor.cover(cursor.at, cursor.at + 1);
    steps += 1;
  }
  assert.equal(steps, 255);
});

test("close codes say whether to come back", async () => {
  const { comesBack } = await client;
  for (const code of [1001, 1006, 1012, 4401, 4404, 4408, 4429, 4499]) assert.ok(comesBack(code), String(code));
  for (const code of [1000, 1002, 1009, 4501, 4503, 4510]) assert.ok(!comesBack(code), String(code));
});
