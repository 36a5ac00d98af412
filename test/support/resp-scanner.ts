// Finds where RESP2/RESP3 messages end in a byte stream that arrives in arbitrary pieces, without decoding values.

/** One finished top-level message. */
export interface RespFrame {
  /** Its type byte, e.g. `*`, `+` or `>`; `i` for an inline command. */
  type: string;
  /** Offset in the chunk just fed at which the message is over. */
  end: number;
  /** Its bulk strings as UTF-8, in order; empty unless the scanner collects. */
  strings: string[];
}

interface Level {
  left: number;
  attribute: boolean;
}

/** Scans one direction of one connection. After bytes that are no RESP, `broken` is true and it reports nothing. */
export class RespScanner {
  broken = false;
  /** Messages finished, not counting empty inline lines. */
  finished = 0;
  #levels: Level[] = [];
  #line: Buffer[] = [];
  #body = 0;
  #payload: Buffer[] = [];
  #type = '';
  #strings: string[] = [];
  readonly #inline: boolean;
  readonly #collect: boolean;

  /** `inline` admits inline commands (client side); `collect` keeps bulk strings. */
  constructor({ inline = false, collect = false }: { inline?: boolean; collect?: boolean } = {}) {
    this.#inline = inline;
    this.#collect = collect;
  }

  /** Whether the bytes so far end in the middle of a message. */
  get partial(): boolean {
    return this.#levels.length > 0 || this.#body > 0 || this.#line.length > 0;
  }

  /** Takes the next bytes and gives the messages that end within them. */
  feed(chunk: Buffer): RespFrame[] {
    const frames: RespFrame[] = [];
    let at = 0;
    while (at < chunk.length && !this.broken) {
      if (this.#body > 0) {
        const taken = Math.min(this.#body, chunk.length - at);
        if (this.#collect) this.#payload.push(chunk.subarray(at, at + taken));
        this.#body -= taken;
        at += taken;
        if (this.#body === 0) {
          if (this.#collect)
            this.#strings.push(Buffer.concat(this.#payload.splice(0)).toString('utf8', 0).slice(0, -2));
          this.#elementDone(at, frames);
        }
        continue;
      }
      const newline = chunk.indexOf(10, at);
      const stop = newline === -1 ? chunk.length : newline + 1;
      this.#line.push(chunk.subarray(at, stop));
      at = stop;
      if (newline !== -1)
        this.#header(Buffer.concat(this.#line.splice(0)).toString('latin1').trimEnd(), at, frames);
    }
    return frames;
  }

  #header(line: string, at: number, frames: RespFrame[]): void {
    const type = line.charAt(0);
    const top = this.#levels.length === 0;
    if (this.#inline && top && type !== '*') {
      if (line === '') return;
      this.#type = 'i';
      this.#strings = this.#collect ? line.trim().split(/\s+/) : [];
      this.#elementDone(at, frames);
      return;
    }
    if (top) {
      this.#type = type;
      this.#strings = [];
    }
    const size = Number(line.slice(1));
    if ('+-:_,#('.includes(type) && type !== '') this.#elementDone(at, frames);
    else if (!'$!=*~>%|'.includes(type) || type === '' || !Number.isInteger(size)) this.broken = true;
    else if ('$!='.includes(type)) {
      if (size >= 0) this.#body = size + 2;
      else this.#elementDone(at, frames);
    } else {
      const left = '%|'.includes(type) ? size * 2 : size;
      if (left > 0) this.#levels.push({ left, attribute: type === '|' });
      else if (type !== '|') this.#elementDone(at, frames);
    }
  }

  #elementDone(at: number, frames: RespFrame[]): void {
    for (;;) {
      const level = this.#levels.at(-1);
      if (level === undefined) {
        this.finished += 1;
        frames.push({ type: this.#type, end: at, strings: this.#strings });
        return;
      }
      level.left -= 1;
      if (level.left > 0) return;
      this.#levels.pop();
      if (level.attribute) return; // an attribute precedes the element it describes
    }
  }
}
