// The gateway's machine: an OPC UA server of node-opcua with the nodes that configs/agent.toml reads.
//
// usage: node milling_machine.cjs NODE_MODULES PKI_FOLDER, listens at opc.tcp://127.0.0.1:4840/machine
//
// Ten products a second.  Everything follows from the number of the product, which is the time, so
// the machine goes on while its server or the whole gateway is away.  A product fails when the
// torque is high on a worn tool, which can be learned from the values.
"use strict";

const Module = require("node:module");
const path = require("node:path");

// Debian 12's Node 18 keeps this to itself ...
globalThis.crypto ??= require("node:crypto").webcrypto;
// ... and cannot `require` this library, which only prints dumps for debugging.
const load = Module._load;
Module._load = (name, ...more) => (name === "hexy" ? { hexy: () => "" } : load(name, ...more));

const [modules, pki] = process.argv.slice(2);
const { DataType, OPCUACertificateManager, OPCUAServer, StatusCodes, Variant } = require(
  path.join(modules, "node-opcua")
);

const NAMESPACE = "urn:journeyman:shopfloor:milling";
const PERIOD_MS = 100;
const FIRST_MS = Date.UTC(2026, 0, 1);
// In this order, the counter last: what it says is done has been written.
const VALUES = {
  AirTemperature: (k) => 300 + 2 * Math.sin(k / 700),
  ProcessTemperature: (k) => 310 + 1.5 * Math.sin(k / 500),
  RotationalSpeed: (k) => 1540 + 170 * Math.sin(k * 1.7),
  Torque: (k) => 40 + 15 * Math.sin(k * 2.3),
  ToolWear: (k) => k % 240,
  MachineFailure: (k) => Number(k % 240 > 120 && 40 + 15 * Math.sin(k * 2.3) > 45),
  ProductCount: (k) => k,
};

async function main() {
  const serverCertificateManager = new OPCUACertificateManager({
    rootFolder: pki,
    automaticallyAcceptUnknownCertificate: true,
  });
  await serverCertificateManager.initialize();
  const server = new OPCUAServer({
    port: 4840,
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    resourcePath: "/machine",
    serverInfo: { applicationUri: "urn:journeyman:test:milling" },
    serverCertificateManager,
  });
  await server.initialize();
  const space = server.engine.addressSpace;
  const namespace = space.registerNamespace(NAMESPACE);
  const machine = namespace.addObject({
    organizedBy: space.rootFolder.objects,
    browseName: "Milling",
    nodeId: "s=Milling",
  });
  const writers = Object.entries(VALUES).map(([name, valueAt]) => {
    const node = namespace.addVariable({
      componentOf: machine,
      browseName: name,
      nodeId: `s=${name}`,
      dataType: DataType.Double,
      minimumSamplingInterval: 0,
    });
    return (k, at) =>
      node.setValueFromSource(
        new Variant({ dataType: DataType.Double, value: valueAt(k) }),
        StatusCodes.Good,
        at
      );
  });
  let last = 0;
  const catchUp = () => {
    const now = Math.floor((Date.now() - FIRST_MS) / PERIOD_MS);
    for (let k = last ? last + 1 : now; k <= now; k++) {
      writers.forEach((write) => write(k, new Date(FIRST_MS + k * PERIOD_MS)));
    }
    last = now;
  };
  catchUp();
  await server.start();
  setInterval(catchUp, PERIOD_MS);
  process.once("SIGTERM", () => process.exit(0));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
