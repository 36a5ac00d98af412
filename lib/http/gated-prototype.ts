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
  /** What the response is to say of itself while it is held back; undefined: what it says by itself. */
  readonly headersSent: boolean | undefined;
  readonly writableEnded: boolean | undefined;
}

/** Prototypes whose methods ask for a gate, and what these methods were before. */
const originals = new WeakMap<object, SendingMethods>();
/** False where there are none, on Fastify: then nobody need look for them. */
let isPrepared = false;

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
  // Taken from the prototype on purpose, hence the mark: they are called with the response, each time.
  const { writeHead, flushHeaders, write, end } = prototype; // oxlint-disable-line typescript/unbound-method
  const methods: SendingMethods = { writeHead, flushHeaders, write, end };
  originals.set(prototype, methods);
  for (const name of NAMES) {
    const value = gatedMethods[name](methods[name] as Send);
    Object.defineProperty(prototype, name, { value, writable: true, enumerable: false, configurable: true });
  }
  // Found once; those of another copy of this package, whose gates these responses may have too, or Node's.
  const above = {
    headersSent: getterOf(prototype, 'headersSent'),
    writableEnded: getterOf(prototype, 'writableEnded'),
  };
  Object.defineProperties(
    prototype,
    statesOf(gateOf, (response, name) => above[name].call(response)),
  );
  isPrepared = true;
}

type Send = (this: ServerResponse, ...args: unknown[]) => unknown;

// Each written out: by its name in a variable, the method of a gate is looked up anew for every call.
const gatedMethods: Record<(typeof NAMES)[number], (send: Send) => Send> = {
  writeHead: (send) =>
    function (...args) {
      const gate = gateOf(this);
      return gate === undefined ? send.apply(this, args) : gate.writeHead(args);
    },
  flushHeaders: (send) =>
    function (...args) {
      const gate = gateOf(this);
      return gate === undefined ? send.apply(this, args) : gate.flushHeaders(args);
    },
  write: (send) =>
    function (...args) {
      const gate = gateOf(this);
      return gate === undefined ? send.apply(this, args) : gate.write(args);
    },
  end: (send) =>
    function (...args) {
      const gate = gateOf(this);
      return gate === undefined ? send.apply(this, args) : gate.end(args);
    },
};

function getterOf(prototype: object, name: State): (this: ServerResponse) => boolean {
  for (let level: object | null = prototype; level !== null; level = Object.getPrototypeOf(level) as object) {
    // Called with the response, each time.
    const getter = Object.getOwnPropertyDescriptor(level, name)?.get; // oxlint-disable-line typescript/unbound-method
    if (getter !== undefined) return getter as () => boolean;
  }
  throw new TypeError(`A response of Node has no getter "${name}"`);
}

/** Not that of another response, which somebody made of the same request. */
function gateOf(response: ServerResponse): Gate | undefined {
  const { req } = response as Partial<ServerResponse>; // a prototype has none
  const gate = req && keptOf(req)?.gate;
  return gate?.response === response ? gate : undefined;
}

type State = 'headersSent' | 'writableEnded';

/** What a response says of itself: what its gate says, else what the getters above these say. */
function statesOf(
  gateOf: (response: ServerResponse) => Gate | undefined,
  above: (response: ServerResponse, name: State) => boolean,
): Record<State, PropertyDescriptor> {
  const state = (name: State) => ({
    configurable: true,
    get(this: ServerResponse): boolean {
      return gateOf(this)?.[name] ?? above(this, name);
    },
  });
  return { headersSent: state('headersSent'), writableEnded: state('writableEnded') };
}

const aboveObject = (response: ServerResponse, name: State) =>
  Reflect.get(Object.getPrototypeOf(response) as object, name, response) as boolean;

const GATE = Symbol('nestjs-sessionkit:gate');
type Gated = ServerResponse & { [GATE]?: Gate };

// Made once, so that all gated responses share their hidden classes.
const OWN_METHODS = {
  writeHead(this: Gated, ...args: unknown[]): unknown {
    return this[GATE]!.writeHead(args);
  },
  flushHeaders(this: Gated, ...args: unknown[]): unknown {
    return this[GATE]!.flushHeaders(args);
  },
  write(this: Gated, ...args: unknown[]): unknown {
    return this[GATE]!.write(args);
  },
  end(this: Gated, ...args: unknown[]): unknown {
    return this[GATE]!.end(args);
  },
} as unknown as SendingMethods;
const OWN_STATES = statesOf((response: Gated) => response[GATE], aboveObject);

/**
 * Puts a gate on one response. On the object itself: prototypes of responses may be changed, as Express does where a
 * mounted app begins and ends.
 */
export function putGate(gate: Gate): void {
  const response: Gated = gate.response;
  if (response[GATE] === undefined) {
    response[GATE] = gate;
    response.writeHead = OWN_METHODS.writeHead;
    response.flushHeaders = OWN_METHODS.flushHeaders;
    response.write = OWN_METHODS.write;
    response.end = OWN_METHODS.end;
  } else {
    // That of another module, which stands behind this one.
    response.writeHead = (...args: unknown[]) => gate.writeHead(args) as ServerResponse;
    response.flushHeaders = () => void gate.flushHeaders([]);
    response.write = (...args: unknown[]) => gate.write(args) as boolean;
    response.end = (...args: unknown[]) => gate.end(args) as ServerResponse;
  }
}

/** Lets the gate of a response say what it is to be taken for. Once it is open, the response speaks for itself again. */
export function showState(gate: Gate): void {
  const response: Gated = gate.response;
  if (gateOf(response) === gate) return; // it inherits the getters
  const states = response[GATE] === gate ? OWN_STATES : statesOf(() => gate, aboveObject);
  // Not defineProperties(), which takes twice as long.
  Object.defineProperty(response, 'headersSent', states.headersSent);
  Object.defineProperty(response, 'writableEnded', states.writableEnded);
}

/**
 * What the methods of this response really do, if its gate can be opened by {@link inheritGate}. Not where somebody has
 * put methods of their own in between: middleware that compresses, for example, which the gate must stand in front of.
 */
export function inheritedMethodsOf(response: ServerResponse): SendingMethods | undefined {
  if (!isPrepared) return undefined;
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
