// What stands between a page and its gateways: a TCP load balancer, or a proxy that lets no WebSocket through.
const net = require("node:net");

const WEBSOCKET = /^upgrade: *websocket/im;
const STREAM = /^GET \/sse\/notifications/;

class Balancer {
  /** Ports it passes connections on to, the next one for each; one that does not answer is passed over. */
  upstreams = [];
  blocksWebSocket = false;
  #turn = 0;
  #open = new Set(); // { client, port }

  static async start(upstreams) {
    const balancer = new Balancer();
    balancer.upstreams = upstreams;
    balancer.server = net.createServer((client) => balancer.#take(client));
    await new Promise((resolve) => balancer.server.listen(0, "127.0.0.1", resolve));
    balancer.port = balancer.server.address().port;
    return balancer;
  }

  /** The upstreams that hold a stream or a WebSocket now. */
  get holding() {
    return [...this.#open].filter((one) => one.holds).map((one) => one.port);
  }

  /** Ends every connection. */
  breakAll() {
    for (const { client } of this.#open) client.destroy();
  }

  stop() {
    this.breakAll();
    return new Promise((resolve) => this.server.close(resolve));
  }

  #take(client) {
    client.on("error", () => {});
    client.once("data", (head) => {
      if (this.blocksWebSocket && WEBSOCKET.test(head)) return client.destroy();
      client.pause();
      this.#pass(client, head, this.upstreams.length);
    });
  }

  #pass(client, head, tries) {
    if (tries === 0) return client.destroy();
    const port = this.upstreams[this.#turn++ % this.upstreams.length];
    const upstream = net.connect(port, "127.0.0.1");
    upstream.once("error", () => this.#pass(client, head, tries - 1));
    upstream.once("connect", () => {
      upstream.removeAllListeners("error").on("error", () => {});
      const one = { client, port, holds: false };
      this.#open.add(one);
      // A browser may open the stream on a connection that served its preflight.
      const look = (bytes) => { one.holds ||= WEBSOCKET.test(bytes) || STREAM.test(bytes); };
      look(head);
      client.on("data", look);
      const end = () => { this.#open.delete(one); client.destroy(); upstream.destroy(); };
      client.once("close", end);
      upstream.once("close", end);
      upstream.write(head);
      client.pipe(upstream);
      upstream.pipe(client);
    });
  }
}

module.exports = { Balancer };
