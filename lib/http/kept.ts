import type { Gate } from './gated-prototype.js';
import type { HttpSessions } from './http-sessions.js';
import type { RequestSession } from './request-session.js';

/** What is kept of a request. Private, so that who logs the request logs nothing of it. */
class Kept {
  readonly #raw: object;
  #session: RequestSession | undefined;
  #sessions: HttpSessions | undefined;
  #gate: Gate | undefined;

  constructor(raw: object) {
    this.#raw = raw;
  }

  /** False for a copy of the request, which has its token elsewhere and shares what this lies in. */
  isOf(raw: object): boolean {
    return this.#raw === raw;
  }

  get session(): RequestSession | undefined {
    return this.#session;
  }
  set session(session: RequestSession) {
    this.#session = session;
  }

  /** Where a parameter with `@Session()` finds its session. */
  get sessions(): HttpSessions | undefined {
    return this.#sessions;
  }
  set sessions(sessions: HttpSessions) {
    this.#sessions = sessions;
  }

  /** What stands before the methods that send its response, where these are inherited. */
  get gate(): Gate | undefined {
    return this.#gate;
  }
  set gate(gate: Gate) {
    this.#gate = gate;
  }
}

const KEPT = Symbol('nestjs-sessionkit');

type Place = object & { [KEPT]?: Kept };

/** Of frozen objects and copies of requests, which guards of the app's own may take for requests. */
const beside = new WeakMap<object, Kept>();

/** @param raw Node's own request, so that middleware, guards and handlers of any framework find the same */
export function keptOf(raw: object): Kept | undefined {
  const kept = placeOf(raw)[KEPT];
  return kept?.isOf(raw) === true ? kept : beside.get(raw);
}

/** @param raw Node's own request */
export function keep(raw: object): Kept {
  const known = keptOf(raw);
  if (known !== undefined) return known;
  const made = new Kept(raw);
  const place = placeOf(raw);
  if (place[KEPT] === undefined && Object.isExtensible(place)) place[KEPT] = made;
  else beside.set(raw, made);
  return made;
}

/**
 * Not a WeakMap: an entry whose value leads back to its key lives until the next full collection, and with it all that
 * belongs to the request (measured on Fastify: a quarter of the CPU time of a short request). And not the request itself
 * where it can be helped: Express gives each a hidden class of its own, so that a property put on one costs some 3 µs.
 */
function placeOf(raw: Place & { readonly _readableState?: Place }): Place {
  return raw._readableState ?? raw;
}
