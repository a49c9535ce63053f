// OPC UA servers with given certificates, strict about whom they trust, for tests of the agent's
// security.
//
// usage: node secure.cjs '{"pki": FOLDER, "servers": [{"port": 1234, "certificate": FILE,
//                          "key": FILE, "uri": "urn:...", "policies": ["Basic256Sha256"]}, ...]}'
//
// Each server takes anonymous users, user "agent" with password "s3cret", and users whose
// certificates are in PKI/users/trusted/certs.  Only clients whose certificates are in
// PKI/trusted/certs may open a secure channel.  Without "policies", a server offers all, and None.
// Variable ns=1;s=Count is 7.
// Prints "READY" when all accept connections; leaves on SIGTERM or when its standard input closes.
"use strict";

const path = require("node:path");
const {
  DataType,
  MessageSecurityMode,
  OPCUACertificateManager,
  OPCUAServer,
  SecurityPolicy,
} = require("node-opcua");

async function strictManager(folder) {
  const manager = new OPCUACertificateManager({
    rootFolder: folder,
    automaticallyAcceptUnknownCertificate: false,
  });
  await manager.initialize();
  return manager;
}

async function serve(pki, { port, certificate, key, uri, policies }) {
  const server = new OPCUAServer({
    port,
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    resourcePath: "/secure",
    certificateFile: certificate,
    privateKeyFile: key,
    serverInfo: { applicationUri: uri },
    buildInfo: { productName: "journeyman secure", buildNumber: "1", buildDate: new Date(0) },
    serverCertificateManager: await strictManager(pki),
    userCertificateManager: await strictManager(path.join(pki, "users")),
    securityPolicies: policies && policies.map((name) => SecurityPolicy[name]),
    securityModes: policies && [MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt],
    allowAnonymous: true,
    userManager: { isValidUser: (user, password) => user === "agent" && password === "s3cret" },
  });
  await server.initialize();
  const addressSpace = server.engine.addressSpace;
  addressSpace.getOwnNamespace().addVariable({
    organizedBy: addressSpace.rootFolder.objects,
    browseName: "Count",
    nodeId: "s=Count",
    dataType: DataType.Double,
    value: { dataType: DataType.Double, value: 7 },
  });
  await server.start();
  return server;
}

async function main() {
  const { pki, servers } = JSON.parse(process.argv[2]);
  const running = [];
  for (const settings of servers) {
    running.push(await serve(pki, settings));
  }
  const stop = async () => {
    await Promise.all(running.map((server) => server.shutdown(0)));
    process.exit(0);
  };
  process.once("SIGTERM", stop);
  process.stdin.once("end", stop).resume();
  console.log("READY");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
