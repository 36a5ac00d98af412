/** The part of a request that is read; Express, Fastify and plain `node:http` requests all have it. */
export interface RequestHeaders {
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
}

/** The part of a session that a transport needs. An `ActiveSession` is one. */
export interface CarriedSession {
  /** The secret to hand to the client. */
  readonly token: string;
  /** Milliseconds until the session ends; null = never. */
  readonly expiresIn: number | null;
  /** How long its client is to keep the token, in ms, where the session itself says; null = until the client ends. */
  readonly maxAge?: number | null;
}

/** Adds a header line to the response; several of one name are kept. */
export type AddHeader = (name: string, value: string) => void;

/**
 * How a token travels. Implement it for `transport` where cookies, bearer tokens and headers do not fit. Never read a
 * token from a URL: those end up in logs, histories and `Referer` headers.
 *
 * @publicApi
 */
export interface TokenTransport {
  /** What the request carries, unchecked; undefined when it carries nothing. */
  read(request: RequestHeaders): string | undefined;
  /** The client must carry this session's token from now on. Absent: the app hands tokens out itself. */
  write?(add: AddHeader, session: CarriedSession): void;
  /** The session has been ended by this request: the client may forget its token. */
  clear?(add: AddHeader): void;
  /**
   * True where browsers send the token by themselves, with requests that other sites cause too: such requests are
   * checked (option `csrf`).
   */
  readonly ambient?: boolean;
  /** True where the client forgets the token after a time, and must be told again when the session is prolonged. */
  readonly renews?: boolean;
}
