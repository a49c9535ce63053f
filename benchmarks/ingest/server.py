"""Serves notification messages that were encoded beforehand, over a real secure channel.

`python -m benchmarks.ingest.server PLAN ...`: asyncua's server with all its services,
Basic256Sha256, SignAndEncrypt; only what it would publish itself is silenced.  Once a client
monitors all items, messages of the first plan are encoded, and from then on its rate is kept:
whatever the client does, the next samples are there.  What it does not fetch waits, up to
`QUEUE_S`, as in the queues of MonitoredItems; then the oldest is lost.  The next client gets the
next plan; all plans are of the same items.

Prints `ready`, and for each plan one line of JSON: messages sent and lost, and the seconds from the
first to the last.
"""

import asyncio
import json
import logging
import os
import struct
import sys
import time
from typing import Any

from asyncua import Server, ua
from asyncua.server.internal_subscription import InternalSubscription

from agent.sensors.opcua.certificates import application_uri, parse_certificate
from benchmarks.ingest.messages import HANDLE_AT, check, encode
from benchmarks.ingest.plan import NAMESPACE, Plan, plan_from

QUEUE_S = 2.0
_POLL_S = 0.0005
_IN_A_FOLDER = 100
"""asyncua looks through all of a folder for each node that it adds."""


async def _serve(plans: list[Plan]) -> None:
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    InternalSubscription.start = _publish_nothing  # type: ignore[assignment,method-assign]
    served: set[int] = set()
    async with await _started(plans[0]) as server:
        print("ready", flush=True)
        for plan in plans:
            subscription = await _monitored(server, plan.items, served)
            identifier = int(subscription.data.SubscriptionId)
            served.add(identifier)
            handles = _handles(subscription)
            messages = await asyncio.to_thread(encode, plan, handles, identifier)
            await asyncio.to_thread(check, plan, handles, messages)
            print(json.dumps(await _feed(subscription, messages, plan)), flush=True)
        await asyncio.Event().wait()


async def _publish_nothing(_: InternalSubscription) -> None:
    """Instead of the server's own loop."""


async def _started(plan: Plan) -> Server:
    server = Server()
    await server.init()
    server.set_endpoint(plan.endpoint)
    certificate = plan.server_certificate
    uri = application_uri(parse_certificate(certificate.read_bytes()))
    await server.set_application_uri(uri)
    await server.load_certificate(certificate)
    await server.load_private_key(certificate.with_name("key.pem"))
    server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    index = await server.register_namespace(NAMESPACE)
    for begin in range(0, plan.items, _IN_A_FOLDER):
        folder = await server.nodes.objects.add_folder(index, f"F{begin}")
        for at in range(begin, min(begin + _IN_A_FOLDER, plan.items)):
            await folder.add_variable(f"ns={index};s=T{at}", f"T{at}", 0.0)
    return server


async def _monitored(server: Server, items: int, served: set[int]) -> InternalSubscription:
    """Wait until a new subscription has so many items."""
    while True:
        for identifier, each in server.iserver.subscription_service.subscriptions.items():
            if identifier not in served and len(_items_of(each)) == items:
                return each
        await asyncio.sleep(0.02)


def _items_of(subscription: InternalSubscription) -> dict[int, Any]:
    return subscription.monitored_item_srv._monitored_items  # noqa: SLF001  no other way to them


def _handles(subscription: InternalSubscription) -> list[int]:
    """ClientHandles in the order of the nodes."""
    by_node = {
        str(item.read_value_id.NodeId.Identifier): int(item.client_handle)
        for item in _items_of(subscription).values()
    }
    return [by_node[f"T{at}"] for at in range(len(by_node))]


async def _feed(
    subscription: InternalSubscription, messages: list[bytearray], plan: Plan
) -> dict[str, float]:
    processor: Any = subscription.pub_request_callback.__self__  # type: ignore[union-attr]
    requests = processor._publish_requests  # noqa: SLF001  no other way to them
    connection, transport = processor._connection, processor._transport  # noqa: SLF001
    queue = max(1, round(QUEUE_S * plan.messages_hz))
    next_one = sent = lost = 0
    begin_s = time.monotonic()
    while next_one < len(messages):
        due = min(len(messages), int((time.monotonic() - begin_s) * plan.messages_hz) + 1)
        if due - next_one > queue:
            lost += due - next_one - queue
            next_one = due - queue
        if next_one == due or not requests:
            await asyncio.sleep(_POLL_S)
            continue
        request, message = requests.popleft(), messages[next_one]
        struct.pack_into("<I", message, HANDLE_AT, request.requesthdr.RequestHandle)
        transport.write(
            connection.message_to_binary(bytes(message), request_id=request.seqhdr.RequestId)
        )
        sent, next_one = sent + 1, next_one + 1
        await asyncio.sleep(0)
    return {"sent": sent, "lost": lost, "seconds": time.monotonic() - begin_s}


if __name__ == "__main__":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    asyncio.run(_serve([plan_from(text) for text in sys.argv[1:]]))
