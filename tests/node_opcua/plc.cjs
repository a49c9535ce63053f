// An OPC UA server that shares no code with asyncua: a PLC with nodes for an agent's scores.
//
// usage: node plc.cjs PORT PKI_FOLDER
//
// Namespace urn:journeyman:plc, object s=PLC with variables of many types that clients write:
//   s=Score Double, s=Level Int16, s=Float Float, s=Alarm Boolean, s=Words String, s=Watchdog Byte,
//   s=Series Double[3]; and s=Locked Double, which they may only read until it is unlocked.
// Policies None and Basic256Sha256/SignAndEncrypt; every certificate is accepted.
// Prints {"ready": true, "certificate": path}, then takes one JSON command a line on standard input
// and answers with one JSON line each:
//
//   {"do": "values"}      {"values": {name: value}, "writes": {name: how many}}
//   {"do": "unlock"}      {"ok": true}: from now on s=Locked is written, too
//   {"do": "reset"}       {"ok": true}: all values are empty again, and s=Locked is locked
//
// Leaves when its standard input closes, so that it never outlives the test that started it.
"use strict";

console.log = console.error; // standard output is for answers

const readline = require("node:readline");
const {
  DataType,
  MessageSecurityMode,
  OPCUACertificateManager,
  OPCUAServer,
  SecurityPolicy,
  Variant,
  VariantArrayType,
  makeAccessLevelFlag,
} = require("node-opcua");

const VARIABLES = {
  Score: DataType.Double,
  Level: DataType.Int16,
  Float: DataType.Float,
  Alarm: DataType.Boolean,
  Words: DataType.String,
  Watchdog: DataType.Byte,
  Locked: DataType.Double,
};
const EMPTY = { [DataType.Boolean]: false, [DataType.String]: "" };
const WRITABLE = "CurrentRead | CurrentWrite";
const [port, pki] = process.argv.slice(2);

function accessOf(name) {
  return name === "Locked" ? "CurrentRead" : WRITABLE;
}

function emptyOf(dataType) {
  return { dataType, value: EMPTY[dataType] === undefined ? 0 : EMPTY[dataType] };
}

function setAccess(node, access) {
  node.accessLevel = makeAccessLevelFlag(access);
  node.userAccessLevel = makeAccessLevelFlag(access);
}

function populate(server) {
  const addressSpace = server.engine.addressSpace;
  const namespace = addressSpace.registerNamespace("urn:journeyman:plc");
  const plc = namespace.addObject({
    organizedBy: addressSpace.rootFolder.objects,
    browseName: "PLC",
    nodeId: "s=PLC",
  });
  const nodes = {};
  const writes = {};
  for (const [name, dataType] of Object.entries(VARIABLES)) {
    const access = accessOf(name);
    nodes[name] = namespace.addVariable({
      componentOf: plc,
      browseName: name,
      nodeId: `s=${name}`,
      dataType,
      accessLevel: access,
      userAccessLevel: access,
    });
    nodes[name].setValueFromSource(emptyOf(dataType));
    nodes[name].on("value_changed", () => (writes[name] = (writes[name] || 0) + 1));
  }
  const series = namespace.addVariable({
    componentOf: plc,
    browseName: "Series",
    nodeId: "s=Series",
    dataType: DataType.Double,
    valueRank: 1,
    arrayDimensions: [3],
    accessLevel: WRITABLE,
    userAccessLevel: WRITABLE,
  });
  series.setValueFromSource(
    new Variant({
      dataType: DataType.Double,
      arrayType: VariantArrayType.Array,
      value: [0, 0, 0],
    })
  );
  return { nodes, writes };
}

async function main() {
  const serverCertificateManager = new OPCUACertificateManager({
    rootFolder: pki,
    automaticallyAcceptUnknownCertificate: true,
  });
  await serverCertificateManager.initialize();
  const server = new OPCUAServer({
    port: Number(port),
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    serverCertificateManager,
    securityPolicies: [SecurityPolicy.None, SecurityPolicy.Basic256Sha256],
    securityModes: [MessageSecurityMode.None, MessageSecurityMode.SignAndEncrypt],
  });
  await server.initialize();
  const { nodes, writes } = populate(server);
  await server.start();
  const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
  const commands = {
    values: () => ({
      values: Object.fromEntries(
        Object.entries(nodes).map(([name, node]) => [name, node.readValue().value.value])
      ),
      writes,
    }),
    unlock: () => {
      setAccess(nodes.Locked, WRITABLE);
      return { ok: true };
    },
    reset: () => {
      for (const [name, node] of Object.entries(nodes)) {
        setAccess(node, accessOf(name));
        node.setValueFromSource(emptyOf(VARIABLES[name]));
        writes[name] = 0;
      }
      return { ok: true };
    },
  };
  say({ ready: true, certificate: server.certificateFile });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    say(commands[JSON.parse(line).do]());
  }
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
