// A fleet for a page that the test serves itself: Redis, Kafka, one dispatcher, two gateways.
const { execFile, execFileSync, spawn } = require("node:child_process");
const { createHmac, randomBytes } = require("node:crypto");
const { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } = require("node:fs");
const http = require("node:http");
const { tmpdir } = require("node:os");
const path = require("node:path");
const { promisify } = require("node:util");
const { freePort, until } = require("./standalone.cjs");

const ROOT = path.join(__dirname, "../..");
const run = promisify(execFile);

class Fleet {
  #stops = [];

  static async start() {
    const fleet = new Fleet();
    try {
      await fleet.#run();
    } catch (error) {
      await fleet.stop();
      throw error;
    }
    return fleet;
  }

  async #run() {
    this.dir = mkdtempSync(path.join(tmpdir(), "herald-fleet-"));
    this.#stops.push(() => rmSync(this.dir, { recursive: true, force: true }));
    this.secret = randomBytes(32).toString("hex");
    this.key = randomBytes(32).toString("hex");
    const secrets = { "token.key": this.secret, "admin.key": this.key, "grpc.secret": randomBytes(32).toString("hex") };
    for (const [name, text] of Object.entries(secrets)) writeFileSync(this.#path(name), text, { mode: 0o600 });
    await this.#servePage();
    const redis = await freePort();
    await this.#part("redis.sh", redis);
    // Nobody owned a shard that this Redis could have forgotten.
    for (const shard of [0, 1]) {
      const key = `notifications:shard:${shard}`;
      execFileSync("redis-cli", ["-p", redis, "HSET", key, "state", "waiting", "until", "1"]);
    }
    const kafka = await freePort();
    await this.#part("kafka.sh", kafka, { HERALD_KAFKA_CONTROLLER: await freePort() });
    this.shared = {
      HERALD_REDIS__URL: `redis://127.0.0.1:${redis}`,
      HERALD_KAFKA__BROKERS: `127.0.0.1:${kafka}`,
      HERALD_KAFKA__REPLICATION: "1",
      HERALD_KAFKA__MIN_INSYNC_REPLICAS: "1",
      HERALD_GRPC__SECRET_FILE: this.#path("grpc.secret"),
    };
    await run(process.env.HERALD_BIN, ["ctl", "topics", "--apply"], { env: { ...process.env, ...this.shared } });
    await this.#dispatcher();
    this.gateways = [await this.#gateway(1), await this.#gateway(2)];
    for (const part of [this.dispatcher, ...this.gateways]) {
      await until("it is ready", async () => (await fetch(`http://127.0.0.1:${part.admin}/readyz`)).ok, () => part.log);
    }
  }

  async #part(script, port, env = {}) {
    const dir = this.#path(script);
    const call = (...args) => run(path.join(ROOT, "scripts", script), args, { env: { ...process.env, ...env } });
    this.#stops.push(() => call("stop", dir));
    await call("start", String(port), dir);
  }

  async #dispatcher() {
    const [http, admin, grpc] = [await freePort(), await freePort(), await freePort()];
    this.api = `http://127.0.0.1:${http}`;
    this.grpc = `127.0.0.1:${grpc}`;
    this.dispatcher = this.#spawn("dispatcher", admin, {
      HERALD_HTTP__LISTEN: `127.0.0.1:${http}`,
      HERALD_HTTP__ADMIN_KEY_FILE: this.#path("admin.key"),
      HERALD_GRPC__LISTEN: this.grpc,
      HERALD_STORE__PATH: this.#path("store"),
      HERALD_SPOOL__PATH: this.#path("spool"),
      // One user gets more than people do.
      HERALD_LIMITS__IN_APP_PER_HOUR: "0",
    });
  }

  async #gateway(number) {
    const clients = await freePort();
    const gateway = this.#spawn("gateway", await freePort(), {
      HERALD_GATEWAY__ID: `gw-${number}`,
      HERALD_GATEWAY__LISTEN: `127.0.0.1:${clients}`,
      HERALD_GATEWAY__CORES: "1",
      HERALD_GATEWAY__PIN: "false",
      HERALD_GATEWAY__ORIGINS: `["${this.origin}"]`,
      HERALD_AUTH__KEYS: `[{ algorithm = "HS256", key_file = "${this.#path("token.key")}" }]`,
      HERALD_DISPATCHERS__ADDRESSES: `["${this.grpc}"]`,
      HERALD_GRPC__LISTEN: `127.0.0.1:${await freePort()}`,
    });
    return Object.assign(gateway, { clients });
  }

  #spawn(command, admin, settings) {
    const child = spawn(process.env.HERALD_BIN, [command], {
      env: { ...process.env, ...this.shared, HERALD_ADMIN__LISTEN: `127.0.0.1:${admin}`, ...settings },
      stdio: ["ignore", "ignore", "pipe"],
    });
    const part = { admin, child, log: "" };
    const kept = process.env.HERALD_TEST_LOGS && path.join(process.env.HERALD_TEST_LOGS, `${child.pid}.log`);
    child.stderr.on("data", (chunk) => {
      part.log += chunk;
      if (kept) appendFileSync(kept, chunk);
    });
    const gone = new Promise((resolve) => child.once("exit", resolve));
    part.kill = () => (child.kill("SIGKILL"), gone);
    this.#stops.push(part.kill);
    return part;
  }

  /** A page with the client module and nothing else: only the standalone has a console. */
  async #servePage() {
    const client = readFileSync(path.join(ROOT, "src/console/herald-client.js"));
    const server = http.createServer((request, response) => {
      const isModule = request.url === "/herald-client.js";
      response.setHeader("content-type", isModule ? "text/javascript" : "text/html");
      response.end(isModule ? client : "<!doctype html><title>page</title>");
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    this.origin = `http://127.0.0.1:${server.address().port}`;
    this.#stops.push(() => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); }));
  }

  #path(name) {
    return path.join(this.dir, name);
  }

  token(user) {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const exp = Math.floor(Date.now() / 1_000) + 3_600;
    const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user, exp })}`;
    return `${text}.${createHmac("sha256", this.secret).update(text).digest("base64url")}`;
  }

  async post(user, title) {
    const response = await fetch(`${this.api}/v1/notifications`, {
      method: "POST",
      headers: { authorization: `Bearer ${this.key}`, "content-type": "application/json" },
      body: JSON.stringify({ target: { user }, type: "test", title }),
    });
    if (response.status !== 202) throw new Error(`HTTP ${response.status}: ${await response.text()}`);
    return (await response.json()).id;
  }

  /** Records of an ownerless shard that the dispatcher has looked after. */
  async finished() {
    const text = await (await fetch(`http://127.0.0.1:${this.dispatcher.admin}/metrics`)).text();
    const samples = text.split("\n").filter((line) => line.startsWith("herald_finished_total"));
    return samples.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
  }

  async stop() {
    for (const stop of this.#stops.reverse()) await stop();
  }
}

module.exports = { Fleet };
