// A self-signed certificate for a test server, made without openssl: the few DER structures that X.509 v3 needs
// (RFC 5280), signed with ECDSA P-256 and SHA-256.
import { generateKeyPairSync, randomBytes, sign } from "node:crypto";

export interface Certificate {
  /** PEM. */
  readonly cert: string;
  /** PEM. */
  readonly key: string;
}

/** Good for the given IPv4 addresses and names for one day around now. It is its own CA. */
export const selfSigned = (ips: readonly string[], names: readonly string[]): Certificate => {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const subject = sequence(set(sequence(oid(0x55, 0x04, 0x03), tlv(0x0c, Buffer.from("beeline test"))))); // CN
  const alternatives = sequence(
    ...names.map((name) => tlv(0x82, Buffer.from(name))),
    ...ips.map((ip) => tlv(0x87, Buffer.from(ip.split(".").map(Number)))),
  );
  const extensions = sequence(
    sequence(oid(0x55, 0x1d, 0x13), tlv(0x01, Buffer.of(0xff)), octets(sequence(tlv(0x01, Buffer.of(0xff))))), // CA
    sequence(oid(0x55, 0x1d, 0x11), octets(alternatives)), // subjectAltName
  );
  const now_ms = Date.now();
  const body = sequence(
    tlv(0xa0, integer(2)), // version 3
    tlv(0x02, Buffer.concat([Buffer.of(1), randomBytes(8)])),
    ECDSA_SHA256,
    subject,
    sequence(utcTime(now_ms - DAY_MS), utcTime(now_ms + DAY_MS)),
    subject,
    publicKey.export({ type: "spki", format: "der" }),
    tlv(0xa3, extensions),
  );
  const signature = Buffer.concat([Buffer.of(0), sign("sha256", body, privateKey)]);
  const der = sequence(body, ECDSA_SHA256, tlv(0x03, signature));
  const base64 = der.toString("base64").replace(/.{64}/g, "$&\n");
  return {
    cert: `-----BEGIN CERTIFICATE-----\n${base64}\n-----END CERTIFICATE-----\n`,
    key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
  };
};

const DAY_MS = 86_400_000;

const tlv = (tag: number, content: Buffer): Buffer => {
  const { length } = content;
  if (length < 0x80) return Buffer.concat([Buffer.of(tag, length), content]);
  const bytes = length < 0x100 ? Buffer.of(0x81, length) : Buffer.of(0x82, length >> 8, length & 0xff);
  return Buffer.concat([Buffer.of(tag), bytes, content]);
};
const sequence = (...parts: readonly Buffer[]): Buffer => tlv(0x30, Buffer.concat(parts));
const set = (part: Buffer): Buffer => tlv(0x31, part);
const oid = (...bytes: readonly number[]): Buffer => tlv(0x06, Buffer.from(bytes));
const octets = (content: Buffer): Buffer => tlv(0x04, content);
const integer = (value: number): Buffer => tlv(0x02, Buffer.of(value));
const utcTime = (at_ms: number): Buffer =>
  tlv(0x17, Buffer.from(`${new Date(at_ms).toISOString().replace(/[-:T]/g, "").slice(2, 14)}Z`));

const ECDSA_SHA256 = sequence(oid(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02));
