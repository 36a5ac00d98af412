// HTTP as it goes over the wire: `fetch` hides repeated headers, follows redirects and decodes bodies.
import { request, type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import { parseSetCookie } from 'cookie';

export interface Ask {
  method?: string;
  headers?: Record<string, string>;
  body?: string;
  /** Called when the header section has arrived, before any of the body is read. */
  onHeaders?: (incoming: IncomingMessage, cookies: readonly string[]) => unknown;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  /** The Set-Cookie lines, as they came. */
  readonly cookies: readonly string[];
  readonly text: string;
  readonly body: unknown;
}

/** One request on a connection of its own. Rejects when the answer is cut short. */
export function ask(
  url: string,
  { method = 'GET', headers = {}, body, onHeaders }: Ask = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outgoing = request(url, { method, headers, agent: false }, (incoming) => {
      const receive = async (): Promise<Answer> => {
        const cookies = incoming.headers['set-cookie'] ?? [];
        await onHeaders?.(incoming, cookies);
        let text = '';
        for await (const chunk of incoming.setEncoding('utf8')) text += chunk as string;
        return {
          status: incoming.statusCode ?? 0,
          headers: incoming.headers,
          cookies,
          text,
          body: parse(text),
        };
      };
      receive().then(resolve, reject);
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

/** The value that a Set-Cookie line of this name carries; undefined when there is no such line, or several. */
export function cookieOf({ cookies }: Pick<Answer, 'cookies'>, name = 'sid'): string | undefined {
  const lines = cookies.filter((line) => line.startsWith(`${name}=`));
  return lines.length === 1 ? parseSetCookie(lines[0]!).value : undefined;
}

/** Attributes of a Set-Cookie line, sorted. */
export function attributesOf(line: string): string[] {
  return line.split('; ').slice(1).sort();
}

/** Something that keeps cookies between requests, as browsers and `supertest` agents do. */
export class CookieJar {
  readonly #values = new Map<string, string>();

  constructor(private readonly url: string) {}

  get header(): string {
    return [...this.#values].map(([name, value]) => `${name}=${value}`).join('; ');
  }

  value(name = 'sid'): string | undefined {
    return this.#values.get(name);
  }

  set(name: string, value: string): this {
    this.#values.set(name, value);
    return this;
  }

  /** The same cookies at another address. */
  at(url: string): CookieJar {
    const jar = new CookieJar(url);
    for (const [name, value] of this.#values) jar.set(name, value);
    return jar;
  }

  async ask(path: string, { headers, ...rest }: Ask = {}): Promise<Answer> {
    const cookie = this.header;
    const answer = await ask(this.url + path, {
      ...rest,
      headers: { ...(cookie !== '' && { cookie }), ...headers },
    });
    for (const line of answer.cookies) {
      const { name, value = '', maxAge } = parseSetCookie(line);
      if (maxAge === 0) this.#values.delete(name);
      else this.#values.set(name, value);
    }
    return answer;
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text; // handlers that return a string answer in plain text
  }
}
