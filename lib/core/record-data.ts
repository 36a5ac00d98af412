import { SessionArgumentError, SessionDataError } from '../errors/caller.errors.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';
import type { DataCodec, SessionCodecContext } from './codec.js';
import { comparableText } from './comparable-text.js';
import { clonePlain, isSamePlain } from './plain-data.js';
import {
  applyPatch,
  diffFields,
  wrapData,
  type DataChange,
  type DataFields,
  type FieldPatch,
} from './session-data.js';
import type { SessionRecord } from './session-record.interface.js';

/** {@link RecordData.primitive} cannot tell. */
export const ASK = Symbol('ask the draft');

/** The data of records: encoded as stores have it, drafts of it as apps see it, and the changes between the two. */
export class RecordData {
  readonly #plain = new WeakMap<SessionRecord, DataFields | null>();

  constructor(
    readonly codec: DataCodec,
    private readonly options: Pick<ResolvedSessionOptions, 'maxDataBytes' | 'dataClass'>,
  ) {}

  /** Data of a record that has been decoded before, so that this cannot fail. A new object every time. */
  decode(record: SessionRecord): DataFields {
    return this.codec.decode(record.data, record);
  }

  /** The same as an app sees it: an instance of `dataClass` where there is one. */
  draft(record: SessionRecord): DataFields {
    const plain = this.#plainOf(record);
    return plain === null ? this.wrap(this.decode(record)) : clonePlain(plain);
  }

  /** True only if the draft is certainly as the record has it; costs no encoding. */
  isUnchanged(record: SessionRecord, draft: DataFields): boolean {
    const plain = this.#plainOf(record);
    try {
      return plain !== null && isSamePlain(draft, plain);
    } catch {
      return false; // a getter of the draft threw: encoding it will tell which
    }
  }

  /** A field that nobody can change by having it, a string or a number for example; else the symbol `ASK`. */
  primitive(record: SessionRecord, key: string): unknown {
    const plain = this.#plainOf(record);
    if (plain === null) return ASK;
    const value = Object.hasOwn(plain, key) ? plain[key] : undefined;
    return typeof value === 'object' && value !== null ? ASK : value;
  }

  /**
   * Data of a record that is plain JSON, decoded once for all that read it, and never handed out. Null where it is not,
   * where an app has a `dataClass`, and for so much data that a second copy of it would count.
   */
  #plainOf(record: SessionRecord): DataFields | null {
    const known = this.#plain.get(record);
    if (known !== undefined) return known;
    if (this.wraps) return null;
    const plain = this.codec.decodePlain(record.data, record);
    this.#plain.set(record, plain);
    return plain;
  }

  /** True where the app has a `dataClass`. */
  get wraps(): boolean {
    return this.options.dataClass !== undefined;
  }

  /** Makes fields what an app sees. */
  wrap(fields: DataFields): DataFields {
    const { dataClass } = this.options;
    return dataClass === undefined || fields instanceof dataClass ? fields : wrapData(dataClass, fields);
  }

  /**
   * The record as an unchanged draft of it would be saved: a `dataClass` may give values to fields that are not stored,
   * and those are no change of anybody's.
   */
  readonly baseline = (record: SessionRecord): SessionRecord =>
    this.options.dataClass === undefined
      ? record
      : { ...record, data: this.encode(this.draft(record), record) };

  /** True if saving the encoded data would change nothing of the record. */
  isSaved(record: SessionRecord, encoded: string): boolean {
    if (encoded === record.data) return true;
    const { data } = this.baseline(record);
    if (encoded === data) return true;
    // A codec that encrypts makes another text of the same data each time.
    return (
      !this.codec.isCanonical &&
      comparableText(this.codec.decode(encoded, record)) === comparableText(this.codec.decode(data, record))
    );
  }

  /** Which top-level fields differ. */
  difference(before: DataFields, after: DataFields, context: SessionCodecContext): FieldPatch {
    const asText = this.codec.isCanonical ? (data: object) => this.encode(data, context) : comparableText;
    return diffFields(before, after, asText);
  }

  /**
   * @param context the session that is to hold the data
   * @throws {SessionDataError}
   */
  encode(data: object, context: SessionCodecContext): string {
    if (typeof data !== 'object' || data === null || Array.isArray(data)) {
      throw new SessionDataError(
        '',
        `must be an object of fields; got ${Array.isArray(data) ? 'an array' : typeof data}.`,
      );
    }
    const text = this.codec.encode(this.#unwrap(data), context);
    const bytes = text.length * 3 > this.options.maxDataBytes ? Buffer.byteLength(text) : text.length;
    if (bytes > this.options.maxDataBytes) {
      throw new SessionDataError(
        this.#largestField(data as DataFields, context),
        `makes the data too large: ${bytes} bytes in all, and maxDataBytes is ${this.options.maxDataBytes}. ` +
          'Keep an id in the session and the rest elsewhere, or raise maxDataBytes.',
      );
    }
    return text;
  }

  /** What a change makes of a record's data, encoded. */
  proposal<T extends object>(change: DataChange<T>): (base: SessionRecord) => string | Promise<string> {
    if (typeof change !== 'function') {
      const fields = asFields(change, 'must be an object of fields, or a function');
      const patch = { set: new Map(Object.entries(fields)), remove: new Set<string>() };
      return (base) => this.encode(applyPatch(this.decode(base), patch), base);
    }
    return async (base) => {
      const data = this.draft(base);
      const next: unknown = await change(data as T);
      return this.encode(
        next === undefined ? data : asFields(next, 'must return nothing, or all of the new data'),
        base,
      );
    };
  }

  /** An instance of `dataClass` is stored as the plain object of its own fields. */
  #unwrap(data: object): object {
    const { dataClass } = this.options;
    return dataClass !== undefined && data instanceof dataClass ? { ...data } : data;
  }

  #largestField(data: DataFields, context: SessionCodecContext): string {
    const sizes = Object.entries(data).map(([key, value]) => ({
      key,
      size: this.codec.encode({ value }, context).length,
    }));
    return sizes.reduce((most, field) => (field.size > most.size ? field : most), { key: '', size: -1 }).key;
  }
}

/** @throws {SessionArgumentError} for what is neither a patch nor a function */
export function checkChange(change: unknown): void {
  if (typeof change !== 'function') asFields(change, 'must be an object of fields, or a function');
}

function asFields(value: unknown, rule: string): DataFields {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as DataFields;
  const got = value === null ? 'null' : Array.isArray(value) ? 'an array' : typeof value;
  throw new SessionArgumentError('change', `${rule}; got ${got}. Write e.g. (data) => { data.views = 1; }.`);
}
