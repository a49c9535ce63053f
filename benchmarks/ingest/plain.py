"""The way of asyncua's documentation: a subscription as an asynchronous iterator, and no rows.

`python -m benchmarks.ingest.plain PLAN`; it adds up the values, no more.  Prints JSON like `ours`.
"""

import asyncio
import contextlib
import json
import logging
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from asyncua import Client, ua
from asyncua.common.subscription import DataChangeEvent
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

from agent.sensors.opcua.own_certificate import own_certificate
from benchmarks.ingest.ours import Tally, peak_rss_mb, use_one_core
from benchmarks.ingest.plan import NAMESPACE, Plan, plan_from

_AT_A_TIME = 1000


async def receive(plan: Plan) -> Tally:
    """Take all values of a plan."""
    own = own_certificate(Path(plan.directory) / "plain", "ingest", datetime.now(UTC))
    client = Client(plan.endpoint, timeout=60, watchdog_intervall=60)
    client.application_uri = "urn:journeyman:agent:ingest"
    await client.set_security(
        SecurityPolicyBasic256Sha256,
        own.path,
        own.path.with_name("key.pem"),
        server_certificate=str(plan.server_certificate),
        mode=ua.MessageSecurityMode.SignAndEncrypt,
    )
    tally, begin_s = Tally(), 0.0
    async with client:
        index = await client.get_namespace_index(NAMESPACE)
        nodes = [client.get_node(f"ns={index};s=T{at}") for at in range(plan.items)]
        subscription = await client.create_subscription(10, queue_maxsize=4 * plan.values_at_once)
        for at in range(0, plan.items, _AT_A_TIME):
            await subscription.subscribe_data_change(nodes[at : at + _AT_A_TIME])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(plan.patience_s):
                async for event in subscription:
                    if isinstance(event, DataChangeEvent):
                        tally.values += 1
                        tally.total += int(event.value)
                        if tally.values == plan.values_at_once:  # the first message is done
                            begin_s, tally.measured = time.process_time(), -tally.values
                        elif tally.values == plan.values:
                            break
        tally.cpu_s = time.process_time() - begin_s
        tally.measured += tally.values
    tally.rss_mb = peak_rss_mb()
    return tally


if __name__ == "__main__":
    use_one_core()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    print(json.dumps(asdict(asyncio.run(receive(plan_from(sys.argv[1]))))), flush=True)
