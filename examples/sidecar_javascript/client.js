// Puts a thing into a cart, through any sidecar: `node client.js CART ITEM [COUNT]`.
//
//     DAPR_HTTP_PORT=3501 node client.js 42 bolt 3
//
// The cart may live behind another sidecar.
"use strict";
const { ActorId, ActorProxyBuilder, CommunicationProtocolEnum, DaprClient } =
  require("@dapr/dapr");

// The proxy wants a class for its name, which is the type; the methods are looked up by name.
class Cart {}

async function main(id, item, count = "1") {
  const client = new DaprClient({
    daprHost: "127.0.0.1",
    daprPort: process.env.DAPR_HTTP_PORT ?? "3500",
    communicationProtocol: CommunicationProtocolEnum.HTTP,
    logger: { level: "error" },
  });
  const cart = new ActorProxyBuilder(Cart, client).build(new ActorId(id));
  try {
    await cart.add({ item, count: Number(count) });
  } catch (error) {
    console.error("refused:", error.message);
    process.exit(1);
  }
  console.log(JSON.stringify(await cart.show()));
  process.exit(0);
}

main(...process.argv.slice(2));
