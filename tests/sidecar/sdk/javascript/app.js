// Actors in JavaScript, by the Dapr SDK as it is: `node app.js PORT SIDECAR_PORT NOTES`.
"use strict";
const fs = require("fs");
const {
  AbstractActor, ActorId, ActorProxyBuilder, CommunicationProtocolEnum, DaprClient, DaprServer,
  Temporal,
} = require("@dapr/dapr");

const [port, sidecarPort, notes] = process.argv.slice(2);

class JsCounter extends AbstractActor {
  async count(key, amount) {
    const manager = this.getStateManager();
    const [found, value] = await manager.tryGetState(key);
    const total = (found ? value.total : 0) + amount;
    await manager.setState(key, { total });
    return total;
  }

  async add(amount) {
    return await this.count("count", amount);
  }

  async get(key) {
    const [found, value] = await this.getStateManager().tryGetState(key);
    return found ? value.total : null;
  }

  async fail() {
    throw new Error("out of ink");
  }

  async timer(on) {
    if (on) {
      await this.registerActorTimer(
        "tick", "ticked", Temporal.Duration.from({ milliseconds: 100 }),
        Temporal.Duration.from({ milliseconds: 300 }), undefined, 2);
    } else {
      await this.unregisterActorTimer("tick");
    }
    return on;
  }

  async ticked(by) {
    await this.count("ticks", by);
  }

  async remind(on) {
    if (on) {
      await this.registerActorReminder(
        "wake", Temporal.Duration.from({ milliseconds: 100 }),
        Temporal.Duration.from({ milliseconds: 300 }), undefined, 3);
    } else {
      await this.unregisterActorReminder("wake");
    }
    return on;
  }

  async receiveReminder(by) {
    await this.count("reminded", by);
  }

  async addAt(id) {
    return await others.build(new ActorId(id)).add(1);
  }

  async forget(key) {
    return await this.getStateManager().tryRemoveState(key);
  }

  async onDeactivate() {
    fs.appendFileSync(notes, `${this.getActorId().getId()}\n`);
  }
}

const options = {
  daprHost: "127.0.0.1",
  daprPort: sidecarPort,
  communicationProtocol: CommunicationProtocolEnum.HTTP,
};
const others = new ActorProxyBuilder(JsCounter, new DaprClient(options));

async function main() {
  const server = new DaprServer({
    serverHost: "127.0.0.1",
    serverPort: port,
    communicationProtocol: CommunicationProtocolEnum.HTTP,
    clientOptions: { ...options, actor: { actorIdleTimeout: process.env.IDLE } },
  });
  await server.actor.init();
  await server.actor.registerActor(JsCounter);
  await server.start();
}

main();
