// What came of it: outcomes and exposures to a featureops node, in batches that may be sent again.
//
// A batch is named by (producer, sequence) and counts once however often it arrives, so a call that failed is simply
// repeated: its fate is unknown, and repeating it is safe. The messages are read from the `.proto` files at run time.

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

import * as grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

const BATCH_EVENTS_MAX = 4_096;
const ATTEMPTS = 5;
const CALL_MS_MAX = 10_000;
const WORTH_REPEATING = new Set([
  grpc.status.UNAVAILABLE,
  grpc.status.DEADLINE_EXCEEDED,
  grpc.status.RESOURCE_EXHAUSTED,
  grpc.status.ABORTED,
]);

export interface Outcome {
  metric: string;
  unit: string;
  /** From the flag's metadata, `featureopsReceipt`: joins the outcome to what this customer saw. */
  receipt?: string;
  /** 1 if absent. */
  value?: number;
}

/** Only clients that evaluate by themselves report exposures; an evaluation by the node is one. */
export interface Exposure {
  experiment: string;
  unit: string;
  variant: string;
}

interface Answer {
  counted: number;
  verdicts: { index: number; verdict: string; detail: string }[];
}

type Method = 'ReportOutcomes' | 'ReportExposures';
type Call = (
  batch: object,
  options: grpc.CallOptions,
  done: (error: grpc.ServiceError | null, answer: Answer) => void,
) => void;
type FactClient = grpc.Client & Record<Method, Call>;

export class Facts {
  readonly #client: FactClient;
  readonly #environment: string;
  // A name of this process alone: two that share one would take each other's numbers.
  readonly #producer = `shop-${randomUUID()}`;
  #sequence = 0;

  constructor(address: string, proto: string, environment = 'production') {
    const definition = loadSync('featureops/v1/facts.proto', { includeDirs: [proto], enums: String, keepCase: true });
    const service = definition['featureops.v1.FactService'] as grpc.ServiceDefinition;
    const Client = grpc.makeGenericClientConstructor(service, 'FactService');
    this.#client = new Client(address, grpc.credentials.createInsecure()) as unknown as FactClient;
    this.#environment = environment;
  }

  /** How many were counted at once. */
  async outcomes(events: Outcome[]): Promise<number> {
    return this.#report('ReportOutcomes', 'outcomes', events);
  }

  async exposures(events: Exposure[]): Promise<number> {
    return this.#report('ReportExposures', 'exposures', events);
  }

  close(): void {
    this.#client.close();
  }

  async #report(method: Method, field: string, events: object[]): Promise<number> {
    let counted = 0;
    for (let start = 0; start < events.length; start += BATCH_EVENTS_MAX) {
      this.#sequence += 1;
      const answer = await this.#send(method, {
        environment: this.#environment,
        producer: this.#producer,
        sequence: this.#sequence,
        [field]: events.slice(start, start + BATCH_EVENTS_MAX),
      });
      counted += answer.counted;
      for (const { index, verdict, detail } of answer.verdicts ?? []) {
        console.log(`event ${index}: ${verdict} ${detail}`);
      }
    }
    return counted;
  }

  async #send(method: Method, batch: object): Promise<Answer> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await new Promise((resolve, reject) => {
          this.#client[method](batch, { deadline: Date.now() + CALL_MS_MAX }, (error, answer) =>
            error ? reject(error) : resolve(answer),
          );
        });
      } catch (error) {
        if (attempt === ATTEMPTS || !WORTH_REPEATING.has((error as grpc.ServiceError).code)) throw error;
        await sleep(100 * 2 ** attempt);
      }
    }
  }
}
