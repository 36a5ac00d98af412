// One node of a deployment: the module in this process (`openNode`), or the built package in one of its own
// (`startWorker`).
import { Logger, type LoggerService } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import {
  CacheService,
  RedisSubscriber,
  SessionEvents,
  SessionModule,
  SessionRegistry,
  SessionService,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { NodeWorker, type NodeWorkerOptions } from '../support/node-worker.js';
import { waitFor } from '../support/wait-for.js';

export type Fields = Record<string, unknown>;

export interface SessionNode {
  readonly sessions: SessionService<Fields>;
  readonly registry: SessionRegistry;
  readonly cache: CacheService;
  readonly subscriber: RedisSubscriber;
  readonly events: SessionEvents;
  close(): Promise<void>;
}

export interface NodeSettings {
  /** Gets every log line of the process; nothing is printed in either case. */
  logger?: LoggerService;
  /** Wait until the near cache may be used; true by default where there is a subscriber. */
  live?: boolean;
}

/** The module as an app of this process, without a web server. */
export async function openNode(
  options: SessionModuleOptions,
  { logger, live = options.redis !== undefined && options.cache !== false }: NodeSettings = {},
): Promise<SessionNode> {
  const app = await NestFactory.createApplicationContext(SessionModule.forRoot(options), {
    logger: logger ?? false,
    abortOnError: false,
  });
  const node: SessionNode = {
    sessions: app.get<SessionService<Fields>>(SessionService),
    registry: app.get(SessionRegistry),
    cache: app.get(CacheService),
    subscriber: app.get(RedisSubscriber),
    events: app.get(SessionEvents),
    close: () => app.close(),
  };
  if (live) await waitFor(() => node.subscriber.live, { message: 'the subscription' });
  return node;
}

/** `workers/session-worker.mjs`, booted with these options (they must survive a structured clone). */
export async function startWorker(
  options: SessionModuleOptions,
  settings: NodeWorkerOptions = {},
): Promise<NodeWorker> {
  const worker = await NodeWorker.start(new URL('./workers/session-worker.mjs', import.meta.url), settings);
  await worker.call('boot', options);
  return worker;
}

/** Closes the worker's app; the process must then end by itself. */
export async function stopWorker(worker: NodeWorker | undefined): Promise<void> {
  if (worker === undefined) return;
  await worker.call('close');
  await worker.stop();
}

/** Name of a session's record in Redis. */
export function recordKey(prefix: string, id: string): string {
  return `${prefix}{${Buffer.from(id, 'base64url')[0]}}:s:${id}`;
}

/** Collects what Nest's Logger is given, at every level, as one text per line. */
export class CapturingLogger implements LoggerService {
  readonly lines: string[] = [];
  readonly log = (...parts: unknown[]): void => this.#add('log', parts);
  readonly warn = (...parts: unknown[]): void => this.#add('warn', parts);
  readonly error = (...parts: unknown[]): void => this.#add('error', parts);
  readonly debug = (...parts: unknown[]): void => this.#add('debug', parts);
  readonly verbose = (...parts: unknown[]): void => this.#add('verbose', parts);
  readonly fatal = (...parts: unknown[]): void => this.#add('fatal', parts);

  matching(pattern: RegExp): string[] {
    return this.lines.filter((line) => pattern.test(line));
  }

  #add(level: string, parts: unknown[]): void {
    this.lines.push(`${level} ${parts.map(String).join(' ')}`);
  }
}

/** Nest's static logger is one for the whole process: give it back after a test that captured it. */
export function silenceLogger(): void {
  Logger.overrideLogger(false);
}

/** Counts rejections nobody handled, while it is on. vitest fails the run for them as well; this names the test. */
export function countUnhandledRejections(): { readonly reasons: unknown[]; stop(): void } {
  const reasons: unknown[] = [];
  const note = (reason: unknown): number => reasons.push(reason);
  process.on('unhandledRejection', note);
  return { reasons, stop: () => void process.off('unhandledRejection', note) };
}
