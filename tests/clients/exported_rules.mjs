// Exported flags in the official Node in-process engine: each case must give the variant that the server gives.
//
//     node exported_rules.mjs CASES.json NODE_MODULES
//
// CASES.json is written by `cargo test -p featureops-evaluation --test exported_rules`. The engine is the package
// @openfeature/flagd-core in the folder NODE_MODULES; 4.0 hashes by fractional's second generation.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [, , file, modules] = process.argv;
const { FlagdCore } = createRequire(`${modules}/`)("@openfeature/flagd-core");
const suite = JSON.parse(readFileSync(file, "utf8"));
const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const core = new FlagdCore(undefined, quiet);
core.setConfigurations(JSON.stringify(suite.document));

const resolve = {
  boolean: (...given) => core.resolveBooleanEvaluation(...given),
  string: (...given) => core.resolveStringEvaluation(...given),
  float: (...given) => core.resolveNumberEvaluation(...given),
  object: (...given) => core.resolveObjectEvaluation(...given),
};
const defaults = { boolean: true, string: "code default", float: -1, object: {} };
let wrong = 0;
for (const given of suite.cases) {
  let variant;
  try {
    const answer = resolve[given.type](given.flag, defaults[given.type], given.context, quiet);
    variant = answer.errorCode ? `${answer.errorCode}: ${answer.errorMessage}` : (answer.variant ?? null);
  } catch (error) {
    variant = `thrown ${error?.message ?? error}`;
  }
  if (variant !== given.variant) {
    wrong += 1;
    if (wrong <= 5) {
      const flag = JSON.stringify(suite.document.flags[given.flag]);
      console.log(`${variant} instead of ${given.variant}\n  ${flag}\n  ${JSON.stringify(given)}`);
    }
  }
}
console.log(`${suite.cases.length - wrong} of ${suite.cases.length} cases agree`);
process.exit(Math.min(wrong, 1));
