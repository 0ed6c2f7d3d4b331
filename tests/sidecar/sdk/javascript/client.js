// Calls actors by the Dapr SDK as it is: `node client.js SIDECAR_PORT`.  Reads lines of JSON,
// [type, id, method, argument]; of each it writes ["ok", answer] or ["failed", text].
"use strict";
const readline = require("readline");
const { ActorId, ActorProxyBuilder, CommunicationProtocolEnum, DaprClient } =
  require("@dapr/dapr");

// The proxy wants a class: its name is the actors' type, its methods are not looked at.
class JsCounter {}
class PyCounter {}
class Cart {}
const types = { JsCounter, PyCounter, Cart };

async function main() {
  const client = new DaprClient({
    daprHost: "127.0.0.1",
    daprPort: process.argv[2],
    communicationProtocol: CommunicationProtocolEnum.HTTP,
    logger: { level: "error" },
  });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [type, id, method, argument] = JSON.parse(line);
    let told;
    try {
      const proxy = new ActorProxyBuilder(types[type], client).build(new ActorId(id));
      const answer = await (argument === null ? proxy[method]() : proxy[method](argument));
      told = ["ok", answer === undefined ? null : answer];
    } catch (error) {
      told = ["failed", String(error.message)];
    }
    process.stdout.write(JSON.stringify(told) + "\n");
  }
  process.exit(0);
}

main();
