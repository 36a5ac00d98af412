import type { AbstractHttpAdapter } from '@nestjs/core';
import { ServerResponse } from 'node:http';
import { keep, keptOf } from './kept.js';

/*
 * Express gives every response a hidden class of its own, so each property put on one costs some 4 µs and garbage: four
 * methods, a tenth of a short request. For Express, the methods that send are therefore put in one place, once, and ask
 * for the gate of the response they are called on.
 */

/** The methods by which a response begins, goes on, and ends. */
export type SendingMethods = Pick<ServerResponse, 'writeHead' | 'flushHeaders' | 'write' | 'end'>;
const NAMES = ['writeHead', 'flushHeaders', 'write', 'end'] as const;

/** What stands between these methods of one response and those who call them. */
export interface Gate extends Record<(typeof NAMES)[number], (args: unknown[]) => unknown> {
  readonly response: ServerResponse;
}

/** Prototypes whose methods ask for a gate, and what these methods were before. */
const originals = new WeakMap<object, SendingMethods>();

/**
 * Lets all responses of Express be gated without a property of their own. Responses without a gate go straight through.
 * The place is `express.response`, where Express lets apps override what responses do, and which the responses of all
 * apps inherit, mounted ones too.
 *
 * @see https://expressjs.com/en/guide/overriding-express-api.html
 */
export function prepareResponses(adapter: AbstractHttpAdapter | null | undefined): void {
  if (adapter?.getType() !== 'express') return;
  const { response } = adapter.getInstance<{ response?: object }>();
  const prototype = response && topmostOf(response);
  if (prototype === undefined || originals.has(prototype)) return;
  const { writeHead, flushHeaders, write, end } = prototype; // oxlint-disable-line typescript/unbound-method
  const methods: SendingMethods = { writeHead, flushHeaders, write, end };
  originals.set(prototype, methods);
  for (const name of NAMES) {
    const send = methods[name] as (...args: unknown[]) => unknown;
    const value = function (this: ServerResponse, ...args: unknown[]): unknown {
      const gate = keptOf(this.req)?.gate;
      // Not a second response that somebody made of the same request.
      return gate?.response === this ? gate[name](args) : send.apply(this, args);
    };
    Object.defineProperty(prototype, name, { value, writable: true, enumerable: false, configurable: true });
  }
}

/**
 * What the methods of this response really do, if its gate can be opened by {@link inheritGate}. Not where somebody has
 * put methods of their own in between: middleware that compresses, for example, which the gate must stand in front of.
 */
export function inheritedMethodsOf(response: ServerResponse): SendingMethods | undefined {
  for (let level: object | null = response; level !== null; level = Object.getPrototypeOf(level) as object) {
    const methods = originals.get(level);
    if (methods !== undefined) return keptOf(response.req)?.gate === undefined ? methods : undefined;
    for (const name of NAMES) if (Object.hasOwn(level, name)) return undefined;
  }
  return undefined;
}

export function inheritGate(gate: Gate): void {
  keep(gate.response.req).gate = gate;
}

/** The last prototype before Node's own; undefined if Node's own is no prototype of this object. */
function topmostOf(response: object): ServerResponse | undefined {
  for (let level = response; ;) {
    const next = Object.getPrototypeOf(level) as object | null;
    if (next === ServerResponse.prototype) return level as ServerResponse;
    if (next === null) return undefined;
    level = next;
  }
}
