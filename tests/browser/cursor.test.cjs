// The client module's cursor rule, without a browser.
const { test } = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const path = require("node:path");

const { module_: client } = require("./fakes.cjs");

test("a cursor advances only over what is contiguous", async () => {
  const { Cursor } = await client;
  const cursor = new Cursor(1);
  cursor.cover(5, 9);
  assert.deepEqual([cursor.at, cursor.hasHole], [1, true]);
  cursor.cover(1, 5);
  assert.deepEqual([cursor.at, cursor.hasHole], [9, false]);
});

test("a range that starts above the cursor does not close the hole, and counts once it is closed", async () => {
  const { Cursor } = await client;
  const cursor = new Cursor(1);
  cursor.cover(3, 9);
  assert.deepEqual([cursor.at, cursor.hasHole], [1, true]);
  cursor.cover(1, 3);
  assert.deepEqual([cursor.at, cursor.hasHole], [9, false]);
});

test("what is remembered above a hole is bounded", async () => {
  const { Cursor } = await client;
  const cursor = new Cursor(1);
  for (let i = 0; i < 1000; i += 1) cursor.cover(10 + 2 * i, 11 + 2 * i);
  cursor.cover(1, 10);
  let steps = 0;
  while (cursor.hasHole) {
    cursor.cover(cursor.at, cursor.at + 1);
    steps += 1;
  }
  assert.equal(steps, 255);
});

test("close codes say what the README's table says", async () => {
  const { comesBack } = await client;
  const lines = readFileSync(path.join(__dirname, "../../README.md"), "utf8").split("\n");
  const rows = lines.slice(lines.findIndex((line) => line.startsWith("| close code")) + 2);
  const table = rows.slice(0, rows.findIndex((line) => !line.startsWith("|")));
  assert.ok(table.length > 10);
  for (const row of table) {
    const [, codes, , back] = row.split("|").map((cell) => cell.trim());
    for (const code of codes.split(", ")) assert.equal(comesBack(Number(code)), back.startsWith("yes"), row);
  }
  // Beside the table: nobody said anything, our own close, and codes of a later server.
  for (const code of [1006, 4000, 4498]) assert.ok(comesBack(code), String(code));
  for (const code of [1000, 4500, 4999]) assert.ok(!comesBack(code), String(code));
});
