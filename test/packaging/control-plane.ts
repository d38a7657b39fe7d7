// A program: an API server for the pods of one node, with the objects of examples/. Arguments: where to listen, port, and
// the directory that is to become the pods' service account. Says "ready" once, ends with its stdin.
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse, parseAllDocuments } from "yaml";
import { FakeApiServer } from "../lib/api-server.ts";

const [host = "", port = "", directory = ""] = process.argv.slice(2);
const TOKEN = "token-of-the-service-account";

const server = new FakeApiServer({ tls: true, host, port: Number(port) });
await server.start();
server.accept([TOKEN]);
for (const file of globSync("../../examples/*.yaml", { cwd: import.meta.dirname })) {
  for (const document of parseAllDocuments(readFileSync(join(import.meta.dirname, file), "utf8"))) {
    const object = document.toJS();
    for (const item of object?.kind === "List" ? object.items : [object ?? []].flat()) server.put(item);
  }
}
const kubeconfig = parse(readFileSync(server.writeKubeconfig(directory), "utf8"));
const authority = kubeconfig.clusters[0].cluster["certificate-authority-data"];
writeFileSync(join(directory, "ca.crt"), Buffer.from(authority, "base64"));
writeFileSync(join(directory, "token"), TOKEN);
console.log("ready");
process.stdin.on("end", () => process.exit()).resume();
