// ipvsadm -Sn as a Desired. This needs no IPVS: the text is what `ipvsadm -Sn` of a kube-proxy in ipvs mode prints.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { formatDesired } from "../../src/compile/format.ts";
import { readIpvs } from "../../src/dataplane/ipvs/readback.ts";

const SAVED = `-A -t 10.96.0.1:80 -s rr -p 10800
-a -t 10.96.0.1:80 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.1:80 -r 10.244.2.2:8080 -m -w 1
-a -t 10.96.0.1:80 -r 10.244.3.2:8080 -m -w 0
-A -u 10.96.0.10:53 -s rr
-A -t [fd00:96::1]:80 -s rr -p
-a -t [fd00:96::1]:80 -r [fd00:1::2]:8080 -m -w 1
-A --sctp-service 10.96.0.3:80 -s wrr
-a --sctp-service 10.96.0.3:80 -r 10.244.1.3:80 -m -w 3
`;

test("virtual and real servers of every protocol and family; weight 0 gets no new flows", () => {
  const { desired, problems } = readIpvs(SAVED, "ipvs.txt");
  assert.deepEqual(problems, []);
  assert.equal(
    formatDesired(desired),
    `node

/10.96.0.10:53/UDP
  ClusterIP 10.96.0.10:53 → reject: no endpoints

/10.96.0.1:80/TCP  affinity 10800s
  10.244.1.2:8080 active
  10.244.2.2:8080 active
  ClusterIP 10.96.0.1:80 → 10.244.1.2:8080 10.244.2.2:8080

/10.96.0.3:80/SCTP
  10.244.1.3:80 active
  ClusterIP 10.96.0.3:80 → 10.244.1.3:80

/[fd00:96::1]:80/TCP  affinity 300s
  [fd00:1::2]:8080 active
  ClusterIP [fd00:96::1]:80 → [fd00:1::2]:8080
`,
  );
});

test("the order of lines with one server each, and long words, change nothing", () => {
  const long = SAVED.replaceAll("-A ", "--add-service ")
    .replaceAll("-a ", "--add-server ")
    .replaceAll(" -t ", " --tcp-service ")
    .replaceAll(" -r ", " --real-server ")
    .replaceAll(" -w ", " --weight ")
    .replaceAll(" -p ", " --persistent ");
  assert.equal(formatDesired(readIpvs(long, "x").desired), formatDesired(readIpvs(SAVED, "x").desired));
});

test("what cannot be read is named, and the rest is read", () => {
  const { desired, problems } = readIpvs(
    `-A -f 7 -s rr\n-a -t 10.9.9.9:1 -r 10.244.1.2:1 -m\n-A -t 10.96.0.1:99999 -s rr\n\u0000\nconstructor x\n-A -t constructor\n${"x".repeat(1 << 20)}\n${SAVED}`,
    "ipvs.txt",
  );
  assert.deepEqual(
    problems.map(({ path, message }) => `${path}: ${message}`),
    [
      "line 1: a virtual server without protocol, address and port",
      "line 2: a real server of 10.9.9.9:1/TCP, which is no virtual server",
      "line 3: a virtual server without protocol, address and port",
      "line 4: no virtual and no real server",
      "line 5: no virtual and no real server",
      "line 6: a virtual server without protocol, address and port",
      "line 7: 1048576 characters long: not read",
    ],
  );
  assert.equal(desired.services.size, 4);
});

test("no text makes the reader throw", () => {
  const words = fc.constantFrom("-A", "-a", "-t", "-u", "-r", "-w", "0", "10.96.0.1:80", "[::1]:80", "-p", "\n", "");
  fc.assert(
    fc.property(fc.array(fc.oneof(words, fc.string()), { maxLength: 40 }), (parts) => {
      assert.ok(readIpvs(parts.join(" "), "x").problems.length <= 100);
    }),
  );
});
