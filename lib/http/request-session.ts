import type { ServerResponse } from 'node:http';
import type { ActiveSession } from '../core/active-session.js';
import type { SessionBinding } from '../core/session-binding.interface.js';
import type { SessionMetadata } from '../core/session-record.interface.js';
import type { WriteOptions } from '../core/session-engine.js';
import type { SessionService } from '../core/session.service.js';
import type { CarriedSession, TokenTransport } from '../core/token-transport.interface.js';
import { SessionGoneError, SessionStoreUnavailableError } from '../errors/state.errors.js';
import type { StoreUnavailablePolicy } from '../options/session-options.interface.js';
import type { HttpRequest } from './http-request.js';
import { isAnswerable } from './http-errors.js';
import { gateResponse, type ReplacementAnswer, type ResponseGateOwner } from './response-gate.js';
import type { ViewRules } from './view-rules.js';

type Session = ActiveSession<object>;

/** What a request needs of the app; one object for all requests. */
export interface HttpSessionServices {
  readonly sessions: SessionService<object>;
  readonly transports: readonly TokenTransport[];
  /** What becomes of a request whose route says nothing of it when the store cannot be asked. */
  readonly onStoreUnavailable: StoreUnavailablePolicy;
  /** Whether this transport may write its token to the client of this request. */
  mayWrite(transport: TokenTransport, request: HttpRequest): boolean;
  /** What sessions say of themselves in their data; null where they do not. */
  readonly rules: ViewRules | null;
  /** Whether the client forgets this session's token after a time, and must be told again when it is prolonged. */
  renews(transport: TokenTransport | undefined, session: Session): boolean;
  /** The session as a transport is to see it. */
  carried(session: Session): CarriedSession;
  /** @throws {ForbiddenException} if another site caused the request, where that matters */
  checkOrigin(request: HttpRequest, session: RequestSession): void;
  /** What is kept of the request with a session that it creates. */
  metadataOf(request: HttpRequest): SessionMetadata;
  /** Turns an error into the answer a client gets for it; logs what the client is not told. */
  toAnswer(error: unknown): ReplacementAnswer;
  /** An operation that nobody waits for failed when it could no longer become the response. */
  onLateFailure(error: unknown): void;
  /** A change was made that can no longer be saved with the response. */
  onLateChange(session: Session): void;
}

/** How long after the end of a response what was forgotten is looked for. */
const LATE_MS = 1_000;

type Line = readonly [name: string, value: string];
const NONE: readonly never[] = [];

/** A token of the request, and what read it. */
interface Carried {
  readonly transport: TokenTransport;
  readonly token: string;
}

/**
 * The session of one request: looked for at most once, on first use, and saved and told to the client before the
 * response leaves.
 *
 * The client is told: its token when it got another one, or when it forgets tokens and the session was prolonged; to
 * forget the token only when this very request ended the session. What it is told and what the store holds never
 * disagree: the store is written first, and if that fails the response is replaced.
 */
export class RequestSession implements SessionBinding, ResponseGateOwner {
  #session: Session | undefined;
  /** One that was handed out, and turned out to have ended when a stricter look was taken. */
  #ended: Session | undefined;
  /** The stored session the request came with; null: none; undefined: not looked for yet. */
  #found: Session | null | undefined;
  /** Whether the store itself was asked. */
  #strictly = false;
  #looking: Promise<Session | null> | undefined;
  /** The token that the store was last asked about. */
  #asked: Carried | undefined;
  /** The store could not tell, and the request goes on as a visitor's. */
  #unreachable: SessionStoreUnavailableError | undefined;
  #carried: Carried | undefined;
  #carriesOthers = false;
  #touching: Promise<boolean> | undefined;
  /** That of the response; undefined while it has none. */
  #gate: { readonly hasBegun: boolean } | undefined;
  #closed = false;
  /** The token the client has, as far as this response told it or the request showed. */
  #known: string | undefined;
  #failed = false;
  #committed = false;
  #saving: Promise<void> | undefined;
  #check: NodeJS.Timeout | undefined;
  #lastAccess = 0;
  #lines: readonly Line[] = NONE;
  /** Operations begun for this request that the response must wait for, and whether somebody takes their errors. */
  #pending: Map<Promise<unknown>, () => boolean> | undefined;
  /** This request has ended the session that the client's token stood for, and goes on with another. */
  #renewed = false;
  /** Tokens of the request that led to no session. */
  #dead: readonly string[] = NONE;
  /** The session's token has served long enough. */
  #rotates = false;
  #originChecked = false;

  constructor(
    readonly services: HttpSessionServices,
    private readonly request: HttpRequest,
    /** Absent where nothing is answered by HTTP. */
    private readonly response: ServerResponse | undefined,
    private readonly transports = services.transports,
  ) {}

  /**
   * The stored session whose token the request carries, or null. Without a promise where the near cache answers. Looked
   * for once per request: whoever serves many messages over one request needs one of these for each.
   *
   * @param strict read the store
   * @param policy what to do when the store cannot tell. What one caller was content with, others need not be
   */
  find(strict: boolean, policy = this.services.onStoreUnavailable): Session | null | Promise<Session | null> {
    const found = this.#found;
    const suits = found?.source !== 'stale' || (policy === 'stale' && !strict);
    if (found !== undefined && suits && (!strict || this.#strictly)) return found;
    if (found === undefined && this.#unreachable !== undefined && policy === 'anonymous') return null;
    const looking = this.#begin(strict, policy);
    if (!(looking instanceof Promise) || policy === 'deny') return looking;
    return looking.catch((error: unknown) => this.#fallBack(error, strict, policy));
  }

  #begin(strict: boolean, policy: StoreUnavailablePolicy): Session | null | Promise<Session | null> {
    const found = this.#found;
    if (this.#looking !== undefined) {
      // One that is under way may be content with a copy; whoever is not looks again after it.
      return strict && !this.#strictly ? this.#looking.then(() => this.find(true, policy)) : this.#looking;
    }
    if (found !== undefined && found !== null) return this.#wait(this.#confirm(found));
    const carried = this.#read();
    const first = carried[0]; // not by destructuring, which goes through an iterator
    if (first === undefined) {
      this.#strictly = true; // what carries nothing is nobody's, whoever is asked
      return this.#settle(null);
    }
    const { sessions } = this.services;
    const now = sessions.now();
    const cached = strict ? null : sessions.getCached(first.token, now);
    if (cached !== null) return this.#settle(cached, first, now);
    return this.#wait(this.#look(carried, strict));
  }

  /** The visitor's session: the stored one, or a new one that its first write will store. */
  obtain(strict: boolean, policy = this.services.onStoreUnavailable): Session | Promise<Session> {
    const found = this.find(strict, policy);
    return found instanceof Promise ? found.then((session) => this.#orNew(session)) : this.#orNew(found);
  }

  /** Why it is not known whether the request has a session; undefined where that is known, or nobody has looked. */
  get unreachable(): SessionStoreUnavailableError | undefined {
    return this.#found === undefined ? this.#unreachable : undefined;
  }

  /** True when nothing can be answered by HTTP any more. */
  get isAnswered(): boolean {
    const { response } = this;
    return response !== undefined && (response.headersSent || response.closed);
  }

  /** The same once it has been looked for. */
  get visitor(): Session {
    return this.#session ?? this.#orNew(this.#found ?? null);
  }

  /**
   * Stores what has changed: under the user that the data names, and with the life that its cookie was given.
   *
   * @param now what has changed, as `ActiveSession.encodedChanges` has just encoded it
   * @throws {ForbiddenException} if another site caused the request, where nobody has looked at that yet
   */
  async save(options?: WriteOptions, now?: string): Promise<void> {
    const session = this.visitor;
    const { rules } = this.services;
    this.checkOrigin();
    const userId = rules?.newOwnerOf(session);
    const timeouts = rules?.newTimeoutsOf(session);
    // The app's `userIdFrom` has seen the data, and may have changed it.
    if (userId === undefined && timeouts === undefined)
      return session.store(options, rules === undefined ? now : undefined);
    if (userId !== undefined && session.isStored && session.userId !== null) {
      const data = rules!.carriedOver(session, userId);
      (await this.renew()).data = data;
      return this.save();
    }
    await session.regenerate({ ...(userId !== undefined && { userId }), ...timeouts });
  }

  saves(session: Session, options?: WriteOptions): Promise<void> | undefined {
    return this.services.rules !== null && session === this.#session ? this.save(options) : undefined;
  }

  async endSuccessor(): Promise<boolean> {
    this.#mustKnow('end a session');
    for (const token of this.#dead) {
      if (!(await this.services.sessions.endSuccessor(token))) continue;
      this.#known = token; // what the client has is worth nothing any more
      return true;
    }
    return false;
  }

  async beforeStoring(): Promise<void> {
    this.#mustKnow('store a session');
    for (const token of this.#dead) await this.services.sessions.refuseRotated(token);
  }

  /** @throws {SessionStoreUnavailableError} where the visitor may have a session that the store could not tell of */
  #mustKnow(operation: string): void {
    const cause = this.#unreachable;
    if (cause === undefined) return;
    throw new SessionStoreUnavailableError(
      operation,
      "it could not tell whether this visitor has one (onStoreUnavailable: 'anonymous')",
      false,
      { cause },
    );
  }

  /** Ends the visitor's session. The request goes on with a new one, which its first write will store. */
  async renew(): Promise<Session> {
    const old = this.visitor;
    await old.destroy();
    this.#renewed ||= old.isStored;
    this.#found = null;
    return (this.#session = this.services.sessions.unstored(this));
  }

  /**
   * Holds the response back until the operation has ended. If it fails, and nobody has taken its error by then, the
   * response is replaced.
   */
  waitFor(operation: Promise<unknown>, isTaken: () => boolean): void {
    this.onUse();
    const pending = (this.#pending ??= new Map());
    pending.set(operation, isTaken);
    const forget = () => pending.delete(operation);
    operation.then(forget, (error: unknown) => {
      // The error waits for the response, or for the one that is being made.
      if (!this.#committed || !pending.has(operation)) return;
      forget();
      if (!isTaken()) this.services.onLateFailure(error);
    });
  }

  /** The app itself has decided on requests that other sites cause. */
  exemptFromOriginCheck(): void {
    this.#originChecked = true;
  }

  /** @throws {ForbiddenException} if another site caused the request, where that matters; once for each request */
  checkOrigin(request = this.request): void {
    if (this.#originChecked) return;
    this.services.checkOrigin(request, this);
    this.#originChecked = true;
  }

  /**
   * True where the request may have been caused by another site: its session came from a cookie, or it carries nothing
   * that only the app's own client could have set.
   */
  get isAmbient(): boolean {
    if (this.#carried !== undefined) return this.#carried.transport.ambient === true;
    return !this.#carriesOthers && this.transports.some(({ ambient }) => ambient);
  }

  /** What {@link find} found, or this request has stored since; undefined when nobody has looked. */
  get current(): Session | null | undefined {
    return this.#session?.isStored ? this.#session : this.#found;
  }

  onUse(): void {
    this.hold();
  }

  /** Puts a gate on the response, which holds it back until the session is saved; see {@link gateResponse}. */
  hold(options?: { readonly deferHead: boolean }): void {
    const { response } = this;
    if (response === undefined) return;
    if (this.#gate !== undefined) {
      if (this.#closed && this.#gate.hasBegun) this.#checkLater();
      return;
    }
    if (response.closed && response.headersSent) return this.#checkLater();
    // Where sessions are there for middleware, an app made by another copy of Express may answer, if middleware calls it
    // without mounting it: its prototype knows nothing of gates.
    const mayInherit = this.services.rules === null && options === undefined;
    this.#gate = gateResponse(response, this, { deferHead: options?.deferHead ?? false, mayInherit });
    // Not once(): that makes a function of its own, and it is emitted only once.
    response.on('close', () => this.#onClose());
  }

  #onClose(): void {
    this.#closed = true;
    // The client went away. Most answers still come, and are committed; some, of files, do not even begin then.
    if (!this.#gate!.hasBegun) setTimeout(() => this.#saveUnanswered(), LATE_MS).unref();
    const saving = this.#saving;
    if (saving === undefined) return this.#sayIfLate();
    const check = () => this.#sayIfLate();
    saving.then(check, check);
  }

  metadata(): SessionMetadata {
    return this.services.metadataOf(this.request);
  }

  commit(): Promise<void> | undefined {
    this.#committed = true;
    const pending = this.#pending;
    if (pending === undefined || pending.size === 0) return this.#commit();
    return this.#settlePending(pending).then(() => this.#commit());
  }

  headers(): readonly Line[] {
    return this.#lines;
  }

  async #settlePending(operations: Map<Promise<unknown>, () => boolean>): Promise<void> {
    const pending = [...operations];
    operations.clear();
    const results = await Promise.allSettled(pending.map(([operation]) => operation));
    results.forEach((result, index) => {
      if (result.status === 'rejected' && !pending[index]![1]()) throw result.reason;
    });
  }

  #commit(): Promise<void> | undefined {
    const ended = this.#ended?.hasChanges ? this.#ended : undefined;
    if (ended !== undefined) return (this.#saving = ended.store()); // fails: it has ended
    const session = this.#session;
    if (session === undefined) return undefined;
    if (this.#rotates && this.#mayRotate(session)) return this.#rotate(session);
    const changes = session.encodedChanges();
    if (changes !== undefined && this.services.rules?.holdsNothing(session) !== true) {
      return (this.#saving = this.save(undefined, changes).then(() => this.#tell(this.visitor, true)));
    }
    if (this.#touching !== undefined && this.services.renews(this.#carried?.transport, session)) {
      return this.#touching.then((prolonged) => this.#tell(session, prolonged));
    }
    this.#tell(session, session.lastAccess > this.#lastAccess);
    return undefined;
  }

  onFailure(error: unknown): ReplacementAnswer {
    this.#lines = NONE;
    // A sign-in that was stored stands, though a later write failed: without its new token the client would be nobody.
    try {
      if (this.#session !== undefined && !this.#session.destroyedHere) this.#tell(this.#session, false);
    } catch {
      this.#lines = NONE; // the transport is what failed, and that is the error being answered
    }
    this.#failed = true;
    return this.services.toAnswer(error);
  }

  /** Not where the client would not be told, nor what a change of rights or timeouts replaces anyway. */
  #mayRotate(session: Session): boolean {
    if (session.token !== this.#known || session.destroyedHere || session.mustKeepToken) return false;
    const { response } = this;
    if (response === undefined || response.closed || response.destroyed) return false;
    const { rules } = this.services;
    if (
      rules !== null &&
      (rules.newOwnerOf(session) !== undefined || rules.newTimeoutsOf(session) !== undefined)
    )
      return false;
    return this.services.mayWrite(this.#writer()!, this.request);
  }

  async #rotate(session: Session): Promise<void> {
    this.#rotates = false;
    if (session.hasChanges) this.checkOrigin();
    try {
      await (this.#saving = session.rotate());
      this.#tell(session, true);
    } catch (error) {
      // A parallel request was first, or the store cannot: only changes of this one would be lost by that. But where it
      // may have been done, the client must not go on as if it had its token.
      const isUnknown = error instanceof SessionStoreUnavailableError && error.outcomeUnknown;
      if (!isAnswerable(error) || isUnknown || session.hasChanges) throw error;
    }
  }

  #saveUnanswered(): void {
    if (this.#committed) return;
    try {
      this.commit()?.catch((error: unknown) => void this.services.toAnswer(error));
    } catch (error) {
      this.services.toAnswer(error);
    }
  }

  /** Used after the response is closed: whatever is changed then is looked for a moment later. */
  #checkLater(): void {
    if (this.#check !== undefined) return;
    this.#check = setTimeout(() => {
      this.#check = undefined;
      this.#sayIfLate();
    }, LATE_MS).unref();
  }

  #sayIfLate(): void {
    if (this.#gate?.hasBegun === false) return;
    const session = this.#session;
    if (session !== undefined && this.#isLate(session)) this.services.onLateChange(session);
  }

  /** @param prolonged a write of this request has extended the session's life */
  #tell(session: Session, prolonged: boolean): void {
    const transport = this.#writer();
    const add = (name: string, value: string) => {
      this.#lines = [...this.#lines, [name, value]];
    };
    let told = false;
    if (session.destroyedHere || (this.#renewed && !session.isStored)) {
      told = this.#known !== undefined && transport?.clear !== undefined;
      if (told) transport!.clear!(add);
      this.#known = undefined;
    } else {
      const isNew = session.token !== this.#known;
      if (!isNew && !prolonged) return; // nearly every request: the clock need not be read
      if (transport?.write !== undefined && session.isStored && session.valid) {
        told =
          (isNew || this.services.renews(transport, session)) &&
          this.services.mayWrite(transport, this.request);
        if (told) transport.write(add, this.services.carried(session));
        this.#known = session.token;
      }
    }
    // A response that hands out a token must not be given to anybody else.
    if (told) add('Cache-Control', 'no-store');
  }

  /** Where the token came from, else where a new one goes. */
  #writer(): TokenTransport | undefined {
    return this.#carried?.transport ?? this.transports.find((one) => one.write !== undefined);
  }

  /** Something happened to the session that this response no longer tells the client, or that is not saved. */
  #isLate(session: Session): boolean {
    if (this.#failed) return false;
    const transport = this.#writer();
    if (session.destroyedHere || (this.#renewed && !session.isStored))
      return this.#known !== undefined && transport?.clear !== undefined;
    if (this.services.rules?.holdsNothing(session) === true) return false;
    if (session.token !== this.#known && session.isStored && session.valid && transport?.write !== undefined)
      return true;
    try {
      return session.hasChanges;
    } catch {
      return true; // it cannot even be encoded
    }
  }

  #read(): Carried[] {
    const found: Carried[] = [];
    for (const transport of this.transports) {
      const token = transport.read(this.request);
      if (token === undefined) continue;
      if (transport.ambient !== true) this.#carriesOthers = true;
      found.push({ transport, token });
    }
    return found;
  }

  #wait(looking: Promise<Session | null>): Promise<Session | null> {
    return (this.#looking = looking.finally(() => (this.#looking = undefined)));
  }

  /** Asks the store about a session that a copy answered for. What the request has changed of it stays. */
  async #confirm(session: Session): Promise<Session | null> {
    // What was changed of a stale copy can never be saved: this says so.
    if (session.source === 'stale' && session.hasChanges) await session.store();
    try {
      if (!session.hasChanges) await session.reload();
      else if ((await this.services.sessions.getStored(session.token, true)) === null) this.#onEnded(session);
    } catch (error) {
      if (!(error instanceof SessionGoneError)) throw error;
      this.#onEnded(session);
    }
    this.#strictly = true;
    return this.#found ?? null;
  }

  /** Nobody gets it any more; but what has been changed of it must fail, and not be forgotten. */
  #onEnded(session: Session): void {
    this.#found = null;
    this.#session = undefined;
    this.#ended = session;
  }

  /** The first that leads to a live session wins, so that a stale cookie hides no valid bearer token. */
  async #look(carried: readonly Carried[], strict: boolean): Promise<Session | null> {
    const { sessions } = this.services;
    for (const one of carried) {
      // The first has been looked for in the near cache already.
      const cached = strict || one === carried[0] ? null : sessions.getCached(one.token);
      this.#asked = one;
      const session = cached ?? (await sessions.getStored(one.token, strict));
      if (session === null) continue;
      this.#strictly = strict;
      return this.#settle(session, one);
    }
    this.#strictly = strict;
    this.#dead = carried.map(({ token }) => token);
    return this.#settle(null);
  }

  /** The store could not tell. What was found before is not given up for less. */
  async #fallBack(error: unknown, strict: boolean, policy: StoreUnavailablePolicy): Promise<Session | null> {
    const asked = this.#asked;
    if (!(error instanceof SessionStoreUnavailableError) || asked === undefined || this.#found !== undefined)
      throw error;
    if (policy === 'anonymous') {
      this.#unreachable = error;
      return null;
    }
    const copy = strict ? null : await this.services.sessions.getStale(asked.token);
    if (copy === null) throw error;
    // Another caller may have got one meanwhile.
    if (this.#found === undefined) {
      this.#found = this.#session = copy.bind(this);
      this.#carried = asked;
      this.#known = asked.token;
      this.#lastAccess = copy.lastAccess;
    }
    return this.#found;
  }

  /** @param now as `SessionService.now()` has just given it */
  #settle<S extends Session | null>(session: S, carried?: Carried, now?: number): S {
    this.#found = session;
    this.#carried = carried;
    this.#known = carried?.token;
    if (session !== null) {
      // What the request did as a visitor, while the store could not tell, must fail, and not be forgotten.
      if (this.#unreachable !== undefined) this.#ended = this.#session;
      this.#session = session.bind(this);
      this.#lastAccess = session.lastAccess;
      this.#touching = this.services.sessions.touchLater(session, now);
      // The cookie is renewed only if the touch was written, which the response must wait for.
      this.#rotates = carried?.transport.write !== undefined && this.services.sessions.rotationIsDue(session);
      if (
        this.#rotates ||
        (this.#touching !== undefined && this.services.renews(carried?.transport, session))
      )
        this.onUse();
    }
    return session;
  }

  #orNew(session: Session | null): Session {
    return session ?? (this.#session ??= this.services.sessions.unstored(this));
  }
}
