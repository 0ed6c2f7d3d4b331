// A shopping cart behind the sidecar, in JavaScript, by Dapr's SDK as it is.
//
//     npm ci                                      # and: pip install 'steinadler[sidecar]'
//                                                 # (in a clone: '../..[sidecar]')
//     steinadler sidecar --app-port 3000          # in a second terminal
//     node cart.js
//
// and in a third:
//
//     curl localhost:3500/v1.0/actors/Cart/42/method/add --json '{"item": "nut", "count": 2}'
//     curl localhost:3500/v1.0/actors/Cart/42/method/show
//     node client.js 42 bolt
//
// A second pair on this machine takes half of the carts, and all of them when the first is killed:
//
//     steinadler sidecar --app-port 3001 --http-port 3501
//     APP_PORT=3001 DAPR_HTTP_PORT=3501 node cart.js
//
// What the cart holds is in the sidecar's store and not in here, so any of them may be killed.  A
// cart that nobody touches for ABANDONED_S seconds (60) is emptied, by whichever program has it by
// then.
"use strict";
const { AbstractActor, CommunicationProtocolEnum, DaprServer, Temporal } = require("@dapr/dapr");

const { APP_PORT = "3000", DAPR_HTTP_PORT = "3500", ABANDONED_S = "60" } = process.env;
const ABANDONED = Temporal.Duration.from({ milliseconds: Number(ABANDONED_S) * 1000 });

// The SDK answers an error with 500 and its JSON, and that of a plain Error is {}.
class Refused extends Error {
  toJSON() {
    return { errorCode: "BAD_ORDER", message: this.message };
  }
}

// What somebody means to buy.  One call at a time, so nothing in here needs a lock.
class Cart extends AbstractActor {
  // Add {item: text, count: number}, and tell how many things there are in all.  All that can be
  // refused is refused before the state is touched: the SDK keeps what a failed method has set.
  async add({ item, count = 1 } = {}) {
    if (typeof item !== "string") {
      throw new Refused('say which item: {"item": "nut"}');
    }
    if (!Number.isInteger(count) || count < 1) {
      throw new Refused("a cart holds whole things");
    }
    const items = { ...(await this.get("items", {})) };
    items[item] = (items[item] ?? 0) + count;
    await this.getStateManager().setState("items", items);
    // Set anew, it is due anew: the last one to touch the cart counts.
    await this.registerActorReminder("abandoned", ABANDONED);
    return { total: Object.values(items).reduce((sum, each) => sum + each, 0) };
  }

  // What is in it, and how often it was emptied.
  async show() {
    return { items: await this.get("items", {}), emptied: await this.get("emptied", 0) };
  }

  // Nobody has touched it: empty it.
  async receiveReminder() {
    await this.getStateManager().setState("items", {});
    await this.getStateManager().setState("emptied", (await this.get("emptied", 0)) + 1);
  }

  async get(key, otherwise) {
    const [found, value] = await this.getStateManager().tryGetState(key);
    return found ? value : otherwise;
  }
}

async function main() {
  const server = new DaprServer({
    serverHost: "127.0.0.1",
    serverPort: APP_PORT,
    communicationProtocol: CommunicationProtocolEnum.HTTP,
    clientOptions: {
      daprHost: "127.0.0.1",
      daprPort: DAPR_HTTP_PORT,
      communicationProtocol: CommunicationProtocolEnum.HTTP,
    },
  });
  await server.actor.init();
  await server.actor.registerActor(Cart);
  await server.start();
}

main();
