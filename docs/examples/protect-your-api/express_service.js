// A service that takes QIMEM access tokens and verifies them with the realm's public keys.
//
// QIMEM_URL is QIMEM's external URL, without a slash at the end; QIMEM_REALM the one realm whose tokens count.
// QIMEM_CLIENT_ID and QIMEM_CLIENT_SECRET are the service's own client, for introspection alone.
"use strict";

const express = require("express");
const { createRemoteJWKSet, errors, jwtVerify } = require("jose");

const { QIMEM_URL, QIMEM_REALM, QIMEM_CLIENT_ID, QIMEM_CLIENT_SECRET, PORT = "3000" } = process.env;
const ISSUER = `${QIMEM_URL}/realms/${QIMEM_REALM}`;
const OWN_CLIENT = Buffer.from(`${QIMEM_CLIENT_ID}:${QIMEM_CLIENT_SECRET}`).toString("base64");

// One for the process: it remembers the key set for 300 s, as long as QIMEM allows, and asks for an unknown
// key once in 30 s at most, however many tokens a stranger makes up.
const keys = createRemoteJWKSet(new URL(`${ISSUER}/jwks`), {
  cacheMaxAge: 300_000, cooldownDuration: 30_000, timeoutDuration: 3_000,
});

class Refusal extends Error {
  constructor(status, message, headers) {
    super(message);
    Object.assign(this, { status, headers });
  }
}

const anonymous = () => new Refusal(401, "authentication required", { "WWW-Authenticate": "Bearer" });
const invalid = () =>
  new Refusal(401, "invalid access token", { "WWW-Authenticate": 'Bearer error="invalid_token"' });
// Without keys or an answer nobody is let in; the token may be good all the same.
const unavailable = () => new Refusal(503, "tokens cannot be checked now", { "Retry-After": "5" });

// What says that the key set could not be had, not that the token is bad.
const KEY_SET_FAILURES = ["ERR_JWKS_TIMEOUT", "ERR_JWKS_INVALID", "ERR_JOSE_GENERIC"];

async function verified(token) {
  try {
    const { payload } = await jwtVerify(token, keys, {
      algorithms: ["ES256"], // named here and never read from the token (RFC 8725 section 3.1)
      issuer: ISSUER,
      audience: QIMEM_URL,
      typ: "at+jwt", // the same keys may sign other kinds of tokens (RFC 9068 section 4)
      clockTolerance: 10,
    });
    // A token without `exp` would never end; jose asks for it only if told to, and older versions cannot be.
    if (typeof payload.exp !== "number") throw new errors.JWTInvalid("no exp");
    return payload;
  } catch (error) {
    const judged = error instanceof errors.JOSEError && !KEY_SET_FAILURES.includes(error.code);
    throw judged ? invalid() : unavailable();
  }
}

// Whoever sent the request, verified offline.
async function caller(request) {
  const [, token] = /^bearer (\S+)$/i.exec(request.get("authorization") ?? "") ?? [];
  if (token === undefined) throw anonymous();
  const { sub, client_id: clientId, permissions = [], scope = "" } = await verified(token);
  return { sub, clientId, permissions, scopes: scope.split(" "), token };
}

// The same, with what QIMEM says of the token at this moment.
async function callerNow(request) {
  const known = await caller(request);
  let now;
  try {
    const answer = await fetch(`${QIMEM_URL}/v1/auth/token/introspect`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Basic ${OWN_CLIENT}` },
      body: JSON.stringify({ token: known.token }),
      signal: AbortSignal.timeout(3_000),
    });
    if (!answer.ok) throw new Error(`introspection answers ${answer.status}`);
    now = await answer.json();
  } catch {
    throw unavailable();
  }
  if (now.active !== true) throw invalid();
  return { ...known, permissions: now.permissions, scopes: (now.scope ?? "").split(" ") };
}

// Middleware: lets in who has the permission, and whose application has the scope; 403 otherwise.
function allow(permission, { scope, who = caller } = {}) {
  return (request, response, next) => {
    who(request).then((found) => {
      const challenge = 'Bearer error="insufficient_scope"';
      if (!found.permissions.includes(permission)) {
        throw new Refusal(403, `needs permission ${permission}`, { "WWW-Authenticate": challenge });
      }
      if (scope !== undefined && !found.scopes.includes(scope)) {
        throw new Refusal(403, `needs scope ${scope}`, { "WWW-Authenticate": `${challenge}, scope="${scope}"` });
      }
      request.caller = found;
      next();
    }).catch(next);
  };
}

const app = express();

// Verified offline: no request to QIMEM.
app.get("/orders", allow("orders:read"), (request, response) => {
  response.json({ orders_of: request.caller.sub });
});

// The user needs the permission, and the application in their hand the scope.
app.post("/orders", allow("orders:write", { scope: "orders" }), (request, response) => {
  response.json({ ordered_by: request.caller.sub, through: request.caller.clientId });
});

// Money leaves: one request to QIMEM, and a token revoked a moment ago is refused.
app.post("/refunds", allow("orders:refund", { who: callerNow }), (request, response) => {
  response.json({ refunded_by: request.caller.sub });
});

// Four parameters make it Express's handler of errors.
app.use((error, request, response, next) => {
  if (!(error instanceof Refusal)) return next(error);
  response.status(error.status).set(error.headers).json({ detail: error.message });
});

const server = app.listen(Number(PORT), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
