// A certificate that vouches for itself, for a server on this machine that stands in for another host.

import { generateKeyPairSync, sign } from "node:crypto";

/** One value of DER: its tag, its length, its contents. */
function der(tag: number, ...contents: Uint8Array[]): Buffer {
  const body = Buffer.concat(contents);
  const { length } = body;
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
  return Buffer.concat([Buffer.from([tag, ...size]), body]);
}

const sequence = (...contents: Uint8Array[]) => der(0x30, ...contents);
const text = (tag: number, value: string) => der(tag, Buffer.from(value));
const ECDSA_WITH_SHA256 = sequence(der(0x06, Buffer.from("2a8648ce3d040302", "hex")));
const COMMON_NAME = der(0x06, Buffer.from("550403", "hex"));

/** Valid for ever, trusted by nobody who is not told to. X.509 version 1 (RFC 5280, section 4.1). */
export function selfSigned(commonName: string): { key: string; cert: string } {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const name = sequence(der(0x31, sequence(COMMON_NAME, text(0x0c, commonName))));
  const validity = sequence(text(0x17, "200101000000Z"), text(0x18, "99991231235959Z"));
  const certificate = sequence(
    der(0x02, Buffer.from([1])), // Serial number.
    ECDSA_WITH_SHA256,
    name,
    validity,
    name,
    publicKey.export({ type: "spki", format: "der" }),
  );
  const signature = der(0x03, Buffer.from([0]), sign("sha256", certificate, privateKey));
  const base64 = sequence(certificate, ECDSA_WITH_SHA256, signature).toString("base64");
  return {
    key: privateKey.export({ type: "pkcs8", format: "pem" }) as string,
    cert: `-----BEGIN CERTIFICATE-----\n${base64}\n-----END CERTIFICATE-----\n`,
  };
}
