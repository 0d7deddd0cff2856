// The official Node clients behind standard input and output: a request a line of JSON, an answer a line, events as
// they come. `child_client.py` is the other end; nothing of the suite is known here.

import { createInterface } from 'node:readline';

import { FlagdProvider } from '@openfeature/flagd-provider';
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { OpenFeature, ProviderEvents } from '@openfeature/server-sdk';

const METHODS = {
  Boolean: 'getBooleanDetails',
  String: 'getStringDetails',
  Integer: 'getNumberDetails',
  Float: 'getNumberDetails',
  Object: 'getObjectDetails',
};
const EVENTS = {
  ready: ProviderEvents.Ready,
  error: ProviderEvents.Error,
  stale: ProviderEvents.Stale,
  change: ProviderEvents.ConfigurationChanged,
};
// The providers log every lost connection, and this process's output is answers only.
const quiet = { error() {}, warn() {}, info() {}, debug() {} };
OpenFeature.setLogger(quiet);

// By handle: { provider, client, handlers }.
const opened = new Map();

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

function makeProvider({ mode, host, port, options }) {
  if (mode === 'ofrep') {
    const headers = options.selector ? [['Flagd-Selector', options.selector]] : [];
    if (options.token) headers.push(['Authorization', `Bearer ${options.token}`]);
    return new OFREPProvider({ baseUrl: `http://${host}:${port}`, headers });
  }
  return new FlagdProvider({ host, port, tls: false, resolverType: mode, ...options }, quiet);
}

const requests = {
  async open(request) {
    const domain = `domain-${request.handle}`;
    const provider = makeProvider(request);
    OpenFeature.setProvider(domain, provider);
    const client = OpenFeature.getClient(domain);
    opened.set(request.handle, { provider, client, handlers: [] });
    const end = Date.now() + request.readyMs;
    while (request.readyMs > 0 && client.providerStatus !== 'READY') {
      if (Date.now() > end) throw new Error(`${request.mode}: ${client.providerStatus} after ${request.readyMs} ms`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return null;
  },

  async evaluate({ handle, type, key, default: fallback, contexts }) {
    const { client } = opened.get(handle);
    const answers = [];
    for (const context of contexts) {
      const details = await client[METHODS[type]](key, fallback, context);
      answers.push({
        value: details.value,
        reason: details.reason ?? '',
        variant: details.variant ?? null,
        error_code: details.errorCode ?? '',
        error_message: details.errorMessage ?? '',
        metadata: details.flagMetadata,
      });
    }
    return answers;
  },

  async listen({ handle, event }) {
    const { client, handlers } = opened.get(handle);
    const handler = (details) => say({ handle, event, flags: details?.flagsChanged ?? [] });
    client.addHandler(EVENTS[event], handler);
    handlers.push([EVENTS[event], handler]);
    return null;
  },

  async state({ handle }) {
    return opened.get(handle).client.providerStatus.toLowerCase();
  },

  async close({ handle }) {
    const { provider, client, handlers } = opened.get(handle);
    for (const [event, handler] of handlers) client.removeHandler(event, handler);
    opened.delete(handle);
    await provider.onClose?.();
    return null;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  requests[request.request](request).then(
    (answer) => say({ number: request.number, answer }),
    (error) => say({ number: request.number, error: error.message }),
  );
}
process.exit(0);
