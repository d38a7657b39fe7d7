// Probes: kube-proxy's answers of /healthz, /livez and healthCheckNodePorts, over real sockets where it matters.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { test } from "node:test";
import { createHealth, isEligible } from "../../src/agent/health.ts";
import { HealthCheckServers, replyFor } from "../../src/agent/healthcheck.ts";
import { serve, text } from "../../src/agent/http.ts";
import type { Node, Problem } from "../../src/model/snapshot.ts";

const setup = (eligible = true) => {
  const clock = { now_ms: Date.UTC(2026, 0, 1) };
  const health = createHealth({
    families: ["IPv4", "IPv6"],
    timeout_ms: 60_000,
    now_ms: () => clock.now_ms,
    eligible: () => eligible,
  });
  return { clock, health };
};

test("healthy while nothing waits, also before the first apply", () => {
  const { health } = setup();
  const reply = health.healthz();
  assert.equal(reply.status, 200);
  assert.deepEqual(reply.headers, { "Content-Type": "application/json", "X-Content-Type-Options": "nosniff" });
  assert.equal(
    reply.body,
    '{"lastUpdated":"2026-01-01T00:00:00.000Z","currentTime":"2026-01-01T00:00:00.000Z","nodeEligible":true,"healthy":true,"status":{}}',
  );
});

test("unhealthy once a change has waited for the timeout, and healthy again when it is applied", () => {
  const { clock, health } = setup();
  health.queued();
  health.updated();
  clock.now_ms += 1_000;
  health.queued();
  clock.now_ms += 59_999;
  health.queued(); // a later change does not make the first one younger
  assert.equal(health.healthz().status, 200);
  clock.now_ms += 1;
  assert.equal(health.healthz().status, 503);
  assert.equal(health.livez().status, 503);
  assert.deepEqual(JSON.parse(health.healthz().body), {
    lastUpdated: "2026-01-01T00:00:00.000Z",
    currentTime: "2026-01-01T00:01:01.000Z",
    nodeEligible: true,
    healthy: false,
    status: {
      IPv4: { lastUpdated: "2026-01-01T00:00:00.000Z", healthy: false },
      IPv6: { lastUpdated: "2026-01-01T00:00:00.000Z", healthy: false },
    },
  });
  health.updated();
  assert.equal(health.healthz().status, 200);
  assert.equal(JSON.parse(health.healthz().body).lastUpdated, "2026-01-01T00:01:01.000Z");
});

test("a change that waits before anything was ever applied has Go's zero time", () => {
  const { clock, health } = setup();
  health.queued();
  clock.now_ms += 60_000;
  assert.equal(JSON.parse(health.livez().body).lastUpdated, "0001-01-01T00:00:00Z");
});

test("an ineligible node is 503 on /healthz but not on /livez, which does not speak of the node", () => {
  const { health } = setup(false);
  assert.equal(health.healthz().status, 503);
  const body = JSON.parse(health.healthz().body);
  assert.deepEqual([body.nodeEligible, body.healthy], [false, true]);
  assert.equal(health.livez().status, 200);
  assert.equal("nodeEligible" in JSON.parse(health.livez().body), false);
});

test("a node is eligible unless it is missing, being deleted, or about to be removed by the autoscaler", () => {
  const node: Node = { name: "n", addresses: [], zone: null, podCIDRs: [], deleting: false, taints: ["other"] };
  assert.equal(isEligible(node), true);
  assert.equal(isEligible(null), false);
  assert.equal(isEligible({ ...node, deleting: true }), false);
  assert.equal(isEligible({ ...node, taints: ["ToBeDeletedByClusterAutoscaler"] }), false);
});

test("a health check answers as kube-proxy does, byte for byte", () => {
  const check = { namespace: "ns", name: "svc", port: 1, localEndpoints: 1 };
  const reply = replyFor(check, true);
  assert.equal(reply.status, 200);
  assert.equal(
    reply.body,
    '{\n\t"service": {\n\t\t"namespace": "ns",\n\t\t"name": "svc"\n\t},\n\t"localEndpoints": 1,\n\t"serviceProxyHealthy": true\n}',
  );
  assert.deepEqual(reply.headers, {
    "Content-Type": "application/json",
    "X-Content-Type-Options": "nosniff",
    "X-Load-Balancing-Endpoint-Weight": "1",
  });
  assert.equal(replyFor(check, false).status, 503);
  assert.equal(replyFor({ ...check, localEndpoints: 0 }, true).status, 503);
});

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
};

test("health check servers start, follow their count, and end with their Service", async (t) => {
  const port = await freePort();
  const servers = new HealthCheckServers({ healthy: () => true, log: () => {}, failed: () => {} });
  t.after(() => servers.close());
  const check = { namespace: "shop", name: "web", port, localEndpoints: 0 };
  const ask = (): Promise<Response> => fetch(`http://127.0.0.1:${port}/any/path`);
  await servers.update([check], ["127.0.0.1"]);
  assert.equal((await ask()).status, 503);
  await servers.update([{ ...check, localEndpoints: 2 }], ["127.0.0.1"]);
  const answer = await ask();
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get("x-load-balancing-endpoint-weight"), "2");
  await servers.update([], ["127.0.0.1"]);
  await assert.rejects(ask);
  assert.equal(servers.failed, 0);
});

test("a health check port that is taken is named and counted, and had once it is free", async (t) => {
  const blocker = createServer().listen(0, "127.0.0.1");
  await once(blocker, "listening");
  const { port } = blocker.address() as { port: number };
  const lines: string[] = [];
  const problems: Problem[] = [];
  const servers = new HealthCheckServers({
    healthy: () => true,
    log: (_level, message) => void lines.push(message),
    failed: (problem) => void problems.push(problem),
  });
  t.after(() => servers.close());
  const check = { namespace: "shop", name: "web", port, localEndpoints: 1 };
  await servers.update([check], ["127.0.0.1"]);
  assert.deepEqual(lines, [`Cannot serve the health check of Service shop/web on port ${port}`]);
  assert.equal(servers.failed, 1);
  assert.deepEqual(
    problems.map(({ object, path }) => [object, path]),
    [["Service shop/web", "spec.healthCheckNodePort"]],
  );
  blocker.close();
  await once(blocker, "close");
  await servers.retry();
  assert.equal(servers.failed, 0);
  assert.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 200);
});

test("two updates at once do not get in each other's way", async (t) => {
  const port = await freePort();
  const lines: string[] = [];
  const problems: Problem[] = [];
  const servers = new HealthCheckServers({
    healthy: () => true,
    log: (_level, message) => void lines.push(message),
    failed: (problem) => void problems.push(problem),
  });
  t.after(() => servers.close());
  const check = { namespace: "shop", name: "web", port, localEndpoints: 1 };
  await Promise.all([1, 2, 3].map((localEndpoints) => servers.update([{ ...check, localEndpoints }], ["127.0.0.1"])));
  assert.deepEqual([lines, problems, servers.failed], [[], [], 0]);
  const answer = await fetch(`http://127.0.0.1:${port}/`);
  assert.equal(answer.headers.get("x-load-balancing-endpoint-weight"), "3");
});

test("a server answers GET and HEAD only", async (t) => {
  const server = await serve({ host: "127.0.0.1", port: 0 }, (path) => text(200, path));
  t.after(() => server.close());
  const url = `http://${server.address}/a?b=c`;
  assert.equal(await (await fetch(url)).text(), "/a");
  const head = await fetch(url, { method: "HEAD" });
  assert.deepEqual([head.status, await head.text()], [200, ""]);
  assert.equal((await fetch(url, { method: "POST", body: "x" })).status, 405);
});

test("a client with huge headers, or one that never ends its request, is cut off while others are served", async (t) => {
  const server = await serve({ host: "127.0.0.1", port: 0 }, () => text(200, "ok"));
  t.after(() => server.close());
  const [host = "", port = ""] = server.address.split(":");
  const slow = connect(Number(port), host);
  t.after(() => slow.destroy());
  slow.write("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ");
  const slowEnd = once(slow.resume(), "close");
  const huge = await fetch(`http://${server.address}/`, { headers: { "X-Huge": "y".repeat(20_000) } });
  assert.equal(huge.status, 431);
  assert.equal((await fetch(`http://${server.address}/`)).status, 200);
  await slowEnd;
});
