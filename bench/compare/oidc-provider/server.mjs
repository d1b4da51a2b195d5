// Prints `ready http://…` once it serves. One client, tokens in memory, keys made at the start.
//
// node server.mjs PORT CLIENT_SECRET
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const [port, secret] = process.argv.slice(2);
const url = `http://127.0.0.1:${port}`;
const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const formats = {
  'urn:signed': { scope: '', accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } },
  'urn:stored': { scope: '', accessTokenFormat: 'opaque' },
};

const provider = new Provider(url, {
  clients: [{
    client_id: 'load',
    client_secret: secret,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    token_endpoint_auth_method: 'client_secret_post',
    id_token_signed_response_alg: 'ES256',
  }],
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'ES256', kid: 'one' }] },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => formats[resource],
    },
  },
});

provider.listen(Number(port), '127.0.0.1', () => console.log(`ready ${url}`));
