// An OPC UA client that shares no code with asyncua: a PLC that reads the agent's scores.
//
// usage: node reader.cjs PKI_FOLDER
//
// Prints {"ready": true, "certificate": path} once its own certificate is there, then takes one JSON
// command a line on standard input and answers with one JSON line each:
//
//   {"do": "connect", "endpoint": url, "policy": p}     {"ok": true} or {"error": text}; p is None
//        or Basic256Sha256, Aes128Sha256RsaOaep, Aes256Sha256RsaPss, each with SignAndEncrypt;
//        ends the connection before
//   {"do": "disconnect"}                                {"ok": true}
//   {"do": "read", "nodes": [id...]}                    {"values": [value...]}
//   {"do": "browse", "node": id}                        {"names": [browse name...]}
//   {"do": "write", "node": id, "type": t, "value": v}  {"status": name}
//   {"do": "call" | "delete", "node": id}               {"status": name}
//   {"do": "history", "node": id, "start": ms, "end": ms, "most": n}
//                                                       {"status": name, "values": [value...],
//                                                        "more": whether a page follows}
//   {"do": "subscribe", "nodes": [id...], "interval_ms": n}
//        {"ok": true}, and from then on, unasked, {"node": id, "at_us": now, "change": value}
//
// where id is a node of the first namespace that the server has of its own, such as "s=press/Score",
// or "i=2258" of OPC UA's namespace, and value {"value", "status", "source_us", "type"}.
// Leaves when its standard input closes, so that it never outlives the test that started it.
"use strict";

console.log = console.error; // standard output is for answers

const readline = require("node:readline");
const {
  AttributeIds,
  DataChangeFilter,
  DataChangeTrigger,
  DataType,
  HistoryReadRequest,
  MessageSecurityMode,
  OPCUACertificateManager,
  OPCUAClient,
  ReadRawModifiedDetails,
  SecurityPolicy,
  TimestampsToReturn,
  Variant,
} = require("node-opcua");

const OWN_NAMESPACE = 1;
const EVERY_SAMPLE = new DataChangeFilter({ trigger: DataChangeTrigger.StatusValueTimestamp });
const [pki] = process.argv.slice(2);
const POLICIES = {
  None: SecurityPolicy.None,
  Basic256Sha256: SecurityPolicy.Basic256Sha256,
  Aes128Sha256RsaOaep: SecurityPolicy.Aes128_Sha256_RsaOaep,
  Aes256Sha256RsaPss: SecurityPolicy.Aes256_Sha256_RsaPss,
};

function nodeId(id) {
  return id.startsWith("i=") ? `ns=0;${id}` : `ns=${OWN_NAMESPACE};${id}`;
}

function microseconds(time, picoseconds) {
  return time ? time.getTime() * 1000 + Math.round((picoseconds || 0) / 1e6) : null;
}

function shown(dataValue) {
  const value = dataValue.value ? dataValue.value.value : null;
  return {
    value: value instanceof Date ? value.toISOString() : value,
    status: dataValue.statusCode.name,
    source_us: microseconds(dataValue.sourceTimestamp, dataValue.sourcePicoseconds),
    type: dataValue.value ? DataType[dataValue.value.dataType] : null,
  };
}

function say(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

function clientFor(policy, clientCertificateManager) {
  return OPCUAClient.create({
    applicationName: "PLC",
    clientCertificateManager,
    connectionStrategy: { maxRetry: 0 },
    endpointMustExist: false,
    securityMode: policy === "None" ? MessageSecurityMode.None : MessageSecurityMode.SignAndEncrypt,
    securityPolicy: POLICIES[policy],
    requestedSessionTimeout: 60_000,
  });
}

const commands = {
  async read(session, { nodes }) {
    const reads = nodes.map((id) => ({ nodeId: nodeId(id), attributeId: AttributeIds.Value }));
    return { values: (await session.read(reads)).map(shown) };
  },

  async browse(session, { node }) {
    const result = await session.browse(nodeId(node));
    return { names: result.references.map((reference) => reference.browseName.name) };
  },

  async write(session, { node, type, value }) {
    const status = await session.write({
      nodeId: nodeId(node),
      attributeId: AttributeIds.Value,
      value: { value: new Variant({ dataType: DataType[type], value }) },
    });
    return { status: status.name };
  },

  async call(session, { node }) {
    const result = await session.call({
      objectId: nodeId(node),
      methodId: "ns=0;i=11492", // Server.GetMonitoredItems
      inputArguments: [{ dataType: DataType.UInt32, value: 1 }],
    });
    return { status: result.statusCode.name };
  },

  async history(session, { node, start, end, most }) {
    const request = new HistoryReadRequest({
      historyReadDetails: new ReadRawModifiedDetails({
        isReadModified: false,
        startTime: start === undefined ? undefined : new Date(start),
        endTime: end === undefined ? undefined : new Date(end),
        numValuesPerNode: most || 0,
        returnBounds: false,
      }),
      nodesToRead: [{ nodeId: nodeId(node), continuationPoint: commands.point || null }],
      releaseContinuationPoints: false,
      timestampsToReturn: TimestampsToReturn.Both,
    });
    const result = await session.historyRead(request);
    const [first] = result.results;
    const point = first.continuationPoint;
    commands.point = point && point.length ? point : null;
    const values = first.historyData ? first.historyData.dataValues || [] : [];
    return {
      status: first.statusCode.name,
      values: values.map(shown),
      more: Boolean(commands.point),
    };
  },

  async subscribe(session, { nodes, interval_ms: interval }) {
    const subscription = await session.createSubscription2({
      requestedPublishingInterval: interval,
      requestedLifetimeCount: 1000,
      requestedMaxKeepAliveCount: 20,
      publishingEnabled: true,
    });
    for (const id of nodes) {
      const item = await subscription.monitor(
        { nodeId: nodeId(id), attributeId: AttributeIds.Value },
        { samplingInterval: 0, queueSize: 1000, discardOldest: true, filter: EVERY_SAMPLE },
        TimestampsToReturn.Both
      );
      item.on("changed", (dataValue) => {
        say({ node: id, at_us: Date.now() * 1000, change: shown(dataValue) });
      });
    }
    return { ok: true };
  },
};

async function main() {
  const manager = new OPCUACertificateManager({
    rootFolder: pki,
    automaticallyAcceptUnknownCertificate: true, // the agent's judgment is tested, not this one
  });
  await manager.initialize();
  let client = clientFor("Basic256Sha256", manager);
  let session = null;
  await client.createDefaultCertificate();
  say({ ready: true, certificate: client.certificateFile });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    try {
      if (command.do === "connect" || command.do === "disconnect") {
        await client.disconnect();
        session = null;
      }
      if (command.do === "connect") {
        client = clientFor(command.policy, manager);
        await client.connect(command.endpoint);
        session = await client.createSession();
      }
      const isLink = command.do === "connect" || command.do === "disconnect";
      say(isLink ? { ok: true } : await commands[command.do](session, command));
    } catch (error) {
      say({ error: error.message || error.stack });
    }
  }
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
