// Starts and stops a real standalone on ports of its own, and a Chromium to look at it.
const { spawn } = require("node:child_process");
const { randomInt } = require("node:crypto");
const { appendFileSync, mkdtempSync, readFileSync, rmSync } = require("node:fs");
const { tmpdir } = require("node:os");
const net = require("node:net");
const path = require("node:path");
const { chromium } = require("playwright-core");

const DEADLINE_MS = 20_000;

// Below the range the kernel takes ports of outgoing connections from: one that is free now, and not
// yet listened on, stays free.
const PORTS = { first: 20_000, end: 32_000 };
const given = new Set();

async function freePort() {
  for (;;) {
    const port = randomInt(PORTS.first, PORTS.end);
    if (given.has(port) || !(await canListen(port))) continue;
    given.add(port);
    return port;
  }
}

function canListen(port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

class Standalone {
  static async start(settings = {}) {
    const standalone = new Standalone();
    standalone.data = mkdtempSync(path.join(tmpdir(), "herald-browser-"));
    standalone.http = await freePort();
    standalone.clients = await freePort();
    standalone.admin = await freePort();
    standalone.settings = settings;
    await standalone.run();
    return standalone;
  }

  /** Starts the process (again) on the same ports and data. */
  async run() {
    this.process = spawn(process.env.HERALD_BIN, ["standalone", "--data", this.data], {
      env: {
        ...process.env,
        HERALD_HTTP__LISTEN: `127.0.0.1:${this.http}`,
        HERALD_GATEWAY__LISTEN: `127.0.0.1:${this.clients}`,
        HERALD_ADMIN__LISTEN: `127.0.0.1:${this.admin}`,
        HERALD_GATEWAY__CORES: "2",
        // One user gets more than people do.
        HERALD_LIMITS__IN_APP_PER_HOUR: "0",
        ...this.settings,
      },
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.log = "";
    const kept = process.env.HERALD_TEST_LOGS && path.join(process.env.HERALD_TEST_LOGS, `${this.process.pid}.log`);
    this.process.stderr.on("data", (chunk) => {
      this.log += chunk;
      if (kept) appendFileSync(kept, chunk);
    });
    await until("the standalone is ready", async () => (await fetch(`http://127.0.0.1:${this.admin}/readyz`)).ok,
      () => this.log);
    this.#nameSecrets();
  }

  /** What no log of the run may hold, for `scripts/check-logs.sh`. */
  #nameSecrets() {
    const logs = process.env.HERALD_TEST_LOGS;
    if (!logs) return;
    for (const name of ["admin.key", "token.key"]) {
      appendFileSync(path.join(logs, "secrets"), `${readFileSync(path.join(this.data, name), "utf8").trim()}\n`);
    }
  }

  get url() {
    return `http://127.0.0.1:${this.http}`;
  }

  async kill(signal = "SIGKILL") {
    const gone = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill(signal);
    await gone;
  }

  async stop() {
    if (this.process.exitCode === null && this.process.signalCode === null) await this.kill();
    rmSync(this.data, { recursive: true, force: true });
  }

  async session(user) {
    return (await fetch(`${this.url}/console/session?user=${user}`)).json();
  }

  async post(user, title) {
    const { api_key } = await this.session(user);
    const response = await fetch(`${this.url}/v1/notifications`, {
      method: "POST",
      headers: { authorization: `Bearer ${api_key}`, "content-type": "application/json" },
      body: JSON.stringify({ target: { user }, type: "test", title }),
    });
    if (response.status !== 202) throw new Error(`HTTP ${response.status}: ${await response.text()}`);
    return (await response.json()).id;
  }
}

async function until(what, holds, explain = () => "") {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    if (await holds().catch(() => false)) return;
    if (Date.now() > deadline) throw new Error(`not within ${DEADLINE_MS} ms: ${what}\n${explain()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function browser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
}

module.exports = { Standalone, freePort, until, browser };
