// An OPC UA server that shares no code with asyncua, so that the agent is tested against
// somebody else's reading of the standard.
//
// usage: node server.cjs PORT HZ [PKI_FOLDER]
//
// Namespace urn:journeyman:test, object s=Line1 with Double variables, all of which carry
// EngineeringUnits (OPC 10000-8, 5.6.3) and change HZ times a second with source timestamps:
//   s=Temperature  degC  Good        s=Torque  N.m  Good         s=Count  (one)  Good, 1 2 3 ...
//   s=Broken       degC  BadSensorFailure      s=Stale  rpm  UncertainLastUsableValue
// Prints "READY <endpoint url>" when it accepts connections, and leaves on SIGTERM or when its
// standard input closes, so that it never outlives the test that started it.
"use strict";

const os = require("node:os");
const path = require("node:path");
const fs = require("node:fs");
const {
  DataType,
  OPCUACertificateManager,
  OPCUAServer,
  StatusCodes,
  standardUnits,
  makeEUInformation,
} = require("node-opcua");

const NAMESPACE = "urn:journeyman:test";

function argumentsOrExit() {
  const port = Number(process.argv[2]);
  const hz = Number(process.argv[3]);
  if (!Number.isInteger(port) || port < 1 || port > 65535 || !(hz > 0 && hz <= 1000)) {
    console.error("usage: node server.cjs PORT HZ [PKI_FOLDER]   (HZ above 0, at most 1000)");
    process.exit(2);
  }
  const pki = process.argv[4] || fs.mkdtempSync(path.join(os.tmpdir(), "node-opcua-"));
  return { port, hz, pki };
}

// UNECE Recommendation 20 codes; unit ids as OPC 10000-8 derives them from the code's ASCII.
const RPM = makeEUInformation("RPM", "r/min", "revolutions per minute");
const NEWTON_METRE = makeEUInformation("NU", "N.m", "newton metre");
const ONE = makeEUInformation("C62", "1", "one");

// Each row: name, unit, range, StatusCode, value after `tick` updates.
function variables(hz) {
  return [
    ["Temperature", standardUnits.degree_celsius, [0, 100], StatusCodes.Good,
      (tick) => 25 + 5 * Math.sin(tick / hz)],
    ["Torque", NEWTON_METRE, [0, 100], StatusCodes.Good, (tick) => 40 + 10 * Math.cos(tick / hz)],
    ["Count", ONE, [0, 1e9], StatusCodes.Good, (tick) => tick],
    ["Broken", standardUnits.degree_celsius, [0, 100], StatusCodes.BadSensorFailure, () => 0],
    ["Stale", RPM, [0, 3000], StatusCodes.UncertainLastUsableValue, (tick) => 1500 + (tick % 7)],
  ];
}

function populate(server, hz) {
  const addressSpace = server.engine.addressSpace;
  const namespace = addressSpace.registerNamespace(NAMESPACE);
  const line = namespace.addObject({
    organizedBy: addressSpace.rootFolder.objects,
    browseName: "Line1",
    nodeId: "s=Line1",
  });
  const updates = variables(hz).map(([name, engineeringUnits, [low, high], status, valueAt]) => {
    const node = namespace.addAnalogDataItem({
      componentOf: line,
      browseName: name,
      nodeId: `s=${name}`,
      dataType: DataType.Double,
      engineeringUnits,
      engineeringUnitsRange: { low, high },
      minimumSamplingInterval: Math.max(10, 1000 / hz),
    });
    return (tick, now) =>
      node.setValueFromSource({ dataType: DataType.Double, value: valueAt(tick) }, status, now);
  });
  let tick = 0;
  return () => {
    tick += 1;
    const now = new Date(); // one source timestamp for all, as one scan cycle of a PLC gives
    updates.forEach((update) => update(tick, now));
  };
}

async function main() {
  const { port, hz, pki } = argumentsOrExit();
  const serverCertificateManager = new OPCUACertificateManager({
    rootFolder: pki,
    automaticallyAcceptUnknownCertificate: true, // a test peer; the agent's own checks are tested
  });
  await serverCertificateManager.initialize();
  const server = new OPCUAServer({
    port,
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    resourcePath: "/line",
    buildInfo: { productName: "journeyman test server", buildNumber: "1", buildDate: new Date(0) },
    serverCertificateManager,
  });
  await server.initialize();
  const update = populate(server, hz);
  update(); // never serve a variable without a value
  await server.start();
  const timer = setInterval(update, 1000 / hz);
  const stop = async () => {
    clearInterval(timer);
    await server.shutdown(0);
    process.exit(0);
  };
  process.once("SIGTERM", stop);
  process.stdin.once("end", stop).resume();
  console.log(`READY ${server.getEndpointUrl()}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
