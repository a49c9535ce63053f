// A richer OPC UA server of node-opcua, for tests of what happens when servers and links fail.
//
// usage: node plant.cjs PORT JSON      JSON keys, all optional:
//   hz            ticks a second, whose period is whole milliseconds (50)
//   start_ms      source time of tick 0, milliseconds since 1970 (now); ticks count on from there
//                 whether the server runs or not, as those of a PLC behind it do
//   keeps_history whether Kept remembers also what happened while this server was down (false)
//   without       names of variables that do not exist at first ([])
//   numbers       how many further variables N0, N1 ... there are (0)
//   pki           folder of its certificates (a temporary one)
//   certificate, key   files of its own certificate, instead of one that it makes
//   application_uri    of the server
//   user, password     the only user (none: anonymous)
//   max_items_per_call MaxMonitoredItemsPerCall (none)
//
// Namespace urn:journeyman:plant, object s=Line1 with variables that change at each tick k, all
// with its source timestamp, start_ms + k * period:
//   s=Count  Double k            s=Kept  Double k, with history      s=Late  Double k
//   s=Ranged Double k mod 100, EURange 0..100
//   s=Wave   Float[8], k + 0..7, ten times a second   s=State String RUN or STOP, once a second
//   s=Span   structure Range {low: k, high: k + 1}    s=Still Double 7, never changes
//   s=N0 ... Double k + its number
// Commands on standard input, each answered by "DONE": `add NAME`, `remove NAME`, `forget` (all
// sessions), `end` (all subscriptions), `drop NAME` (its MonitoredItems, without a word).
// Prints "READY <endpoint url>"; leaves on SIGTERM or when its standard input closes.
"use strict";

const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const readline = require("node:readline");
const {
  DataType,
  DataValue,
  OPCUACertificateManager,
  OPCUAServer,
  Range,
  StatusCodes,
  Variant,
  VariantArrayType,
} = require("node-opcua");

const NAMESPACE = "urn:journeyman:plant";
const WAVE_LENGTH = 8;
const HISTORY_LENGTH = 100_000;

function argumentsOrExit() {
  const port = Number(process.argv[2]);
  const given = JSON.parse(process.argv[3] || "{}");
  const options = { hz: 50, start_ms: Date.now(), without: [], numbers: 0, ...given };
  if (!Number.isInteger(port) || port < 1 || port > 65535 || 1000 % options.hz !== 0) {
    console.error("usage: node plant.cjs PORT JSON   (see the head of the file)");
    process.exit(2);
  }
  return { port, ...options, periodMs: 1000 / options.hz };
}

class Plant {
  constructor(server, options) {
    this.server = server;
    this.options = options;
    this.space = server.engine.addressSpace;
    this.namespace = this.space.registerNamespace(NAMESPACE);
    this.line = this.namespace.addObject({
      organizedBy: this.space.rootFolder.objects,
      browseName: "Line1",
      nodeId: "s=Line1",
    });
    this.writers = new Map();
    this.tick = Math.floor((Date.now() - options.start_ms) / options.periodMs);
    const names = ["Count", "Kept", "Late", "Ranged", "Wave", "State", "Span", "Still"];
    for (let i = 0; i < options.numbers; i++) names.push(`N${i}`);
    names.filter((name) => !options.without.includes(name)).forEach((name) => this.add(name));
    this.node("Kept") && this.remember(this.node("Kept"));
  }

  node(name) {
    return this.space.findNode(`ns=${this.namespace.index};s=${name}`);
  }

  add(name) {
    const common = {
      componentOf: this.line,
      browseName: name,
      nodeId: `s=${name}`,
      dataType: "Double",
      minimumSamplingInterval: 0, // reported by exception: every tick is a sample
    };
    const double = (valueAt) => (k) =>
      new Variant({ dataType: DataType.Double, value: valueAt(k) });
    const number = (name.match(/^N(\d+)$/) || [])[1];
    const kinds = {
      Ranged: [{}, double((k) => k % 100)],
      Wave: [{ dataType: "Float", valueRank: 1, arrayDimensions: [WAVE_LENGTH] }, waveAt],
      State: [{ dataType: "String" }, stateAt(this.options.hz)],
      Span: [{ dataType: "Range" }, spanAt],
      Still: [{}, double(() => 7)],
    };
    const [more, valueAt] = kinds[name] || [{}, double((k) => k + Number(number || 0))];
    const node =
      name === "Ranged"
        ? this.namespace.addAnalogDataItem({
            ...common,
            engineeringUnitsRange: { low: 0, high: 100 },
          })
        : this.namespace.addVariable({ ...common, ...more });
    const { hz } = this.options;
    const every = { Wave: hz / 10, State: hz, Still: Infinity }[name] || 1;
    const write = (k, at) => node.setValueFromSource(valueAt(k), StatusCodes.Good, at);
    write(this.tick, this.timeOf(this.tick));
    this.writers.set(name, (k, at) => k % every === 0 && write(k, at));
  }

  remove(name) {
    this.writers.delete(name);
    this.space.deleteNode(this.node(name));
  }

  remember(node) {
    this.space.installHistoricalDataNode(node, { maxOnlineValues: HISTORY_LENGTH });
    if (!this.options.keeps_history) return;
    for (let k = Math.max(0, this.tick - HISTORY_LENGTH / 2); k <= this.tick; k++) {
      const sourceTimestamp = this.timeOf(k);
      const value = { dataType: DataType.Double, value: k };
      node._historyPush(new DataValue({ value, sourceTimestamp, statusCode: StatusCodes.Good }));
    }
  }

  timeOf(k) {
    return new Date(this.options.start_ms + k * this.options.periodMs);
  }

  catchUp() {
    const due = Math.floor((Date.now() - this.options.start_ms) / this.options.periodMs);
    while (this.tick < due) {
      this.tick += 1;
      const at = this.timeOf(this.tick);
      this.writers.forEach((write) => write(this.tick, at));
    }
  }

  sessions() {
    return Object.values(this.server.engine._sessions);
  }

  subscriptions() {
    return this.sessions().flatMap((session) => session.publishEngine.subscriptions);
  }

  obey(line) {
    const [command, name] = line.trim().split(" ");
    if (command === "add") this.add(name);
    if (command === "remove") this.remove(name);
    if (command === "forget") {
      const { engine } = this.server;
      this.sessions().forEach((each) =>
        engine.closeSession(each.authenticationToken, true, "Terminated"),
      );
    }
    if (command === "end") {
      this.sessions().forEach((session) =>
        session.publishEngine.subscriptions.forEach((each) => session.deleteSubscription(each.id)),
      );
    }
    if (command === "drop") {
      const nodeId = this.node(name).nodeId.toString();
      for (const subscription of this.subscriptions()) {
        for (const item of [...subscription.monitoredItems.values()]) {
          if (item.node && item.node.nodeId.toString() === nodeId) {
            subscription.removeMonitoredItem(item.monitoredItemId);
          }
        }
      }
    }
    console.log("DONE");
  }
}

function waveAt(k) {
  const value = Float32Array.from({ length: WAVE_LENGTH }, (_, i) => k + i);
  return new Variant({ dataType: DataType.Float, arrayType: VariantArrayType.Array, value });
}

function spanAt(k) {
  const value = new Range({ low: k, high: k + 1 });
  return new Variant({ dataType: DataType.ExtensionObject, value });
}

function stateAt(hz) {
  return (k) =>
    new Variant({ dataType: DataType.String, value: Math.floor(k / hz) % 2 ? "RUN" : "STOP" });
}

async function main() {
  const options = argumentsOrExit();
  const serverCertificateManager = new OPCUACertificateManager({
    rootFolder: options.pki || fs.mkdtempSync(path.join(os.tmpdir(), "node-opcua-")),
    automaticallyAcceptUnknownCertificate: true, // a test peer; the agent's own checks are tested
  });
  await serverCertificateManager.initialize();
  const limits = { maxMonitoredItemsPerCall: options.max_items_per_call || 0 };
  const server = new OPCUAServer({
    port: options.port,
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    resourcePath: "/plant",
    buildInfo: { productName: "journeyman test plant", buildNumber: "1", buildDate: new Date(0) },
    serverInfo: { applicationUri: options.application_uri || "urn:journeyman:test:plant" },
    serverCertificateManager,
    ...(options.certificate && {
      certificateFile: options.certificate,
      privateKeyFile: options.key,
    }),
    allowAnonymous: !options.user,
    userManager: {
      isValidUser: (user, word) => user === options.user && word === options.password,
    },
    serverCapabilities: { operationLimits: limits },
  });
  await server.initialize();
  const plant = new Plant(server, options);
  await server.start();
  setInterval(() => plant.catchUp(), options.periodMs);
  const stop = async () => {
    await server.shutdown(0);
    process.exit(0);
  };
  process.once("SIGTERM", stop);
  const commands = readline.createInterface({ input: process.stdin });
  commands.on("line", (line) => plant.obey(line));
  commands.on("close", stop);
  console.log(`READY ${server.getEndpointUrl()}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
