// A certified OpenID Provider over HTTPS, and what can go wrong with one.
//
//   node provider.mjs FOLDER PORT
//
// FOLDER holds chain.pem and key.pem (the provider's own) and clients.pem (who vouches for clients' certificates). What
// shall be is said on standard input, one JSON object per line; each is answered with a line once it is so:
//
//   keys     the private keys, a list of JWKs; the sessions and grants of before stay
//   sign     the algorithm, and the kid, of access tokens
//   fault    what becomes of requests for the key set: null, or a name of `faults`
//   listen   false: nobody answers any more; true: again
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { Provider } from 'oidc-provider';

const [folder, port] = process.argv.slice(2);
const read = (name) => readFileSync(join(folder, name));
const issuer = `https://localhost:${port}`;

const people = {
  alice: {
    groups: ['staff', 'admins'],
    realm_access: { roles: ['reviewer', 'offline_access'] },
    resource_access: { reviews: { roles: ['writer'] } },
  },
  bob: { groups: ['staff'], realm_access: { roles: ['guest'] } },
};

const current = { keys: [], sign: { alg: 'RS256' }, fault: null, listen: true };
const asked = { keys: 0, discovery: 0 };
let provider;

const peer = (ctx) => ctx.socket.getPeerX509Certificate?.();

function configuration() {
  return {
    jwks: { keys: current.keys },
    cookies: { keys: ['for this process'] },
    scopes: ['openid', 'reviews'],
    ttl: { AccessToken: 600, ClientCredentials: 600, IdToken: 600, Session: 600, Interaction: 600, Grant: 600 },
    findAccount: (ctx, id) => (people[id] ? { accountId: id, claims: () => ({ sub: id, ...people[id] }) } : undefined),
    extraTokenClaims: (ctx, token) => people[token.accountId],
    clients: [
      {
        client_id: 'web', token_endpoint_auth_method: 'none', redirect_uris: ['https://web.example/callback'],
        grant_types: ['authorization_code'], response_types: ['code'],
      },
      {
        client_id: 'service', client_secret: 'of the service', redirect_uris: [], response_types: [],
        grant_types: ['client_credentials'],
      },
      {
        client_id: 'batch', token_endpoint_auth_method: 'tls_client_auth', redirect_uris: [], response_types: [],
        tls_client_auth_san_uri: 'spiffe://td.example/ns/prod/sa/batch', grant_types: ['client_credentials'],
        tls_client_certificate_bound_access_tokens: true,
      },
    ],
    clientAuthMethods: ['none', 'client_secret_basic', 'tls_client_auth'],
    features: {
      clientCredentials: { enabled: true },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        tlsClientAuth: true,
        getCertificate: peer,
        certificateAuthorized: (ctx) => ctx.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_san_uri'
          && new X509Certificate(peer(ctx).raw).subjectAltName === `URI:${expected}`,
      },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource) => ({
          scope: 'reviews', audience: resource, accessTokenFormat: 'jwt', jwt: { sign: current.sign },
        }),
      },
    },
  };
}

const faults = {
  500: (response) => response.writeHead(500).end('out of order'),
  unavailable: (response) => response.writeHead(503, { 'retry-after': '3600' }).end(),
  html: (response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>Please log in</html>'),
  garbage: (response) => response.writeHead(200, { 'content-type': 'application/json' }).end('{"keys": [{"kty": "R'),
  empty: (response) => response.writeHead(200, { 'content-type': 'application/json' }).end('{"keys": []}'),
  list: (response) => response.writeHead(200, { 'content-type': 'application/json' }).end('[]'),
  huge: (response) => response.writeHead(200).end(Buffer.alloc(10_000_000, ' ')),
  redirect: (response) => response.writeHead(302, { location: `${issuer}/elsewhere` }).end(),
  silence: () => {},
  drip: (response) => {
    response.writeHead(200);
    const timer = setInterval(() => response.write(' '), 100);
    response.on('close', () => clearInterval(timer));
  },
  reset: (response) => response.socket.destroy(),
};

function handle(request, response) {
  const { pathname } = new URL(request.url, issuer);
  if (pathname === '/jwks') asked.keys += 1;
  if (pathname === '/.well-known/openid-configuration') asked.discovery += 1;
  if (pathname === '/jwks' && current.fault) faults[current.fault](response);
  else provider.callback()(request, response);
}

const server = createServer(
  {
    cert: read('chain.pem'), key: read('key.pem'), ca: read('clients.pem'), requestCert: true, rejectUnauthorized: false,
  },
  handle,
);

async function apply(command) {
  Object.assign(current, command);
  if (command.keys) provider = new Provider(issuer, configuration());
  if (current.listen && !server.listening) {
    await new Promise((done) => { server.listen(Number(port), '127.0.0.1', done); });
  } else if (!current.listen && server.listening) {
    const closed = new Promise((done) => { server.close(done); });
    server.closeAllConnections();
    await closed;
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  await apply(JSON.parse(line));
  process.stdout.write(`${JSON.stringify(asked)}\n`);
}
process.exit(0);
