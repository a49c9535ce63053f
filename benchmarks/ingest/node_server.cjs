// An OPC UA server by another author that changes many variables, all secure channels offered.
//
// usage: node node_server.cjs PORT TAGS HZ PKI_FOLDER
//
// Namespace urn:journeyman:ingest: Doubles s=T0, s=T1, ..., each 1, 2, 3, ... HZ times a second,
// with one source timestamp for all. Prints "READY <endpoint url>" when it accepts connections, and
// leaves on SIGTERM or when its standard input closes.
"use strict";

const { DataType, OPCUACertificateManager, OPCUAServer, StatusCodes } = require("node-opcua");

async function main() {
  const [port, tags, hz] = process.argv.slice(2, 5).map(Number);
  const serverCertificateManager = new OPCUACertificateManager({
    rootFolder: process.argv[5],
    automaticallyAcceptUnknownCertificate: true,
  });
  await serverCertificateManager.initialize();
  const server = new OPCUAServer({
    port,
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    resourcePath: "/ingest",
    buildInfo: { productName: "journeyman ingest", buildNumber: "1", buildDate: new Date(0) },
    serverCertificateManager,
  });
  await server.initialize();
  const addressSpace = server.engine.addressSpace;
  const namespace = addressSpace.registerNamespace("urn:journeyman:ingest");
  const line = namespace.addObject({
    organizedBy: addressSpace.rootFolder.objects,
    browseName: "Line",
  });
  const nodes = Array.from({ length: tags }, (_, at) =>
    namespace.addVariable({
      componentOf: line,
      browseName: `T${at}`,
      nodeId: `s=T${at}`,
      dataType: DataType.Double,
      minimumSamplingInterval: 0, // every change is a sample
    }));
  let value = 0;
  const change = () => {
    value += 1;
    const now = new Date();
    for (const node of nodes) {
      node.setValueFromSource({ dataType: DataType.Double, value }, StatusCodes.Good, now);
    }
  };
  change();
  await server.start();
  setInterval(change, 1000 / hz);
  const leave = () => server.shutdown(0).then(() => process.exit(0));
  process.on("SIGTERM", leave);
  process.stdin.on("end", leave).resume();
  console.log(`READY ${server.getEndpointUrl()}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
