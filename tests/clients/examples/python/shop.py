"""A shop whose button is an experiment: the official OFREP provider decides, the facts API hears what came of it.

    pip install openfeature-sdk openfeature-provider-ofrep grpcio-tools
    python shop.py --flags http://127.0.0.1:8016 --facts 127.0.0.1:7400

The evaluation itself is the exposure. Its receipt comes in the flag's metadata, as `featureopsReceipt`; sent back with
the purchase, it joins the two, whatever has been reallocated between.

The flagd provider for Python would decide the same, but up to 0.6.1 it does not hand on an rpc answer's metadata: leave
the receipt out then, and the purchase is joined by the customer's key.
"""

import argparse
from pathlib import Path

from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

from facts import Facts

PROTO = Path(__file__).resolve().parents[4] / "proto"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--flags", default="http://127.0.0.1:8016", help="where the node speaks OFREP")
    parser.add_argument("--facts", default="127.0.0.1:7400", help="host and port of the node's own API")
    parser.add_argument("--proto", default=str(PROTO), help="folder of featureops/v1/facts.proto")
    parser.add_argument("--customers", type=int, default=40)
    given = parser.parse_args()

    api.set_provider_and_wait(OFREPProvider(given.flags))
    flags = api.get_client()
    facts = Facts(given.facts, given.proto)

    purchases = []
    for number in range(given.customers):
        customer = f"python-{number}"
        button = flags.get_string_details("button", "grey", EvaluationContext(customer))
        # Everybody likes blue, and every fourth buys anyhow.
        if button.value == "blue" or number % 4 == 0:
            receipt = button.flag_metadata["featureopsReceipt"]
            purchases.append({"metric": "purchase", "unit": customer, "receipt": receipt})

    counted = facts.outcomes(purchases)
    print(f"{given.customers} customers, {len(purchases)} purchases, {counted} counted")
    facts.close()
    api.shutdown()


main()
