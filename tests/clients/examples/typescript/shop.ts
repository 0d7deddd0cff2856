// A shop whose button is an experiment: the official flagd provider decides, the facts API hears what came of it.
//
//   npm install @openfeature/server-sdk @openfeature/flagd-provider @grpc/grpc-js @grpc/proto-loader
//   node shop.js --flags 127.0.0.1:8013 --facts 127.0.0.1:7400 --proto ../../../../proto
//
// The evaluation itself is the exposure. Its receipt comes in the flag's metadata, as `featureopsReceipt`; sent back
// with the purchase, it joins the two, whatever has been reallocated between.

import { parseArgs } from 'node:util';

import { FlagdProvider } from '@openfeature/flagd-provider';
import { OpenFeature } from '@openfeature/server-sdk';

import { Facts, type Outcome } from './facts.js';

const { values: given } = parseArgs({
  options: {
    flags: { type: 'string', default: '127.0.0.1:8013' },
    facts: { type: 'string', default: '127.0.0.1:7400' },
    proto: { type: 'string', default: 'proto' },
    customers: { type: 'string', default: '40' },
  },
});

const { hostname: host, port } = new URL(`http://${given.flags}`);
await OpenFeature.setProviderAndWait(new FlagdProvider({ host, port: Number(port) }));
const flags = OpenFeature.getClient();
const facts = new Facts(given.facts, given.proto);

const customers = Number(given.customers);
const purchases: Outcome[] = [];
for (let number = 0; number < customers; number += 1) {
  const customer = `typescript-${number}`;
  const button = await flags.getStringDetails('button', 'grey', { targetingKey: customer });
  // Everybody likes blue, and every fourth buys anyhow.
  if (button.value === 'blue' || number % 4 === 0) {
    const receipt = button.flagMetadata['featureopsReceipt'];
    if (typeof receipt !== 'string') throw new Error(`no receipt for ${customer}: ${JSON.stringify(button)}`);
    purchases.push({ metric: 'purchase', unit: customer, receipt });
  }
}

const counted = await facts.outcomes(purchases);
console.log(`${customers} customers, ${purchases.length} purchases, ${counted} counted`);
facts.close();
await OpenFeature.close();
