// Verifies deliveries of the relay: Standard Webhooks 1.0, symmetric signatures. Node.js, no packages.

import { createHmac, timingSafeEqual } from "node:crypto";

const TOLERANCE_SECONDS = 5 * 60;
const SHORTEST_KEY_BYTES = 24;

// Returns the event's id, or throws an Error: answer 401. RangeError: the secret here is no key; answer 500.
// `secret` begins with whsec_, `headers` are those of the request as Node.js has them, and `body` is a Buffer of the
// bytes as they came.
export function verify(secret, headers, body, now = Date.now() / 1000) {
  const key = Buffer.from((secret ?? "").trim().replace(/^whsec_/, ""), "base64");
  // With an empty key, of a variable that is not set, anyone can sign.
  if (key.length < SHORTEST_KEY_BYTES) {
    throw new RangeError("the signing secret must be whsec_ and the base64 of at least 24 bytes: is its variable set?");
  }
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (!/^[0-9]+$/.test(timestamp) || Math.abs(now - Number(timestamp)) > TOLERANCE_SECONDS) {
    throw new Error("webhook-timestamp is more than five minutes away from this machine's clock");
  }
  const mac = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body);
  const expected = Buffer.from(`v1,${mac.digest("base64")}`);
  // One signature for each secret of the relay: during a rotation there are two.
  const signatures = (headers["webhook-signature"] ?? "").split(" ").map((text) => Buffer.from(text));
  if (!signatures.some((given) => given.length === expected.length && timingSafeEqual(given, expected))) {
    throw new Error("no signature of webhook-signature is of this secret");
  }
  return id;
}
