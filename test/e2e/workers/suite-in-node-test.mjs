// The suite as an author of a store runs it with Node's own runner, from the package as it is published.
import { describe, it } from 'node:test';
import { MemorySessionStore } from 'nestjs-sessionkit';
import { describeSessionStore } from 'nestjs-sessionkit/testing';

class NoAliases extends MemorySessionStore {
  capabilities = { versions: true, index: true };
}

class DestroyIsAlwaysTrue extends NoAliases {
  async destroy(id) {
    await super.destroy(id);
    return true;
  }
}

const Store = process.env.BROKEN ? DestroyIsAlwaysTrue : NoAliases;
describeSessionStore({ describe, it }, Store.name, async () => ({ store: new Store() }));
