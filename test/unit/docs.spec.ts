// The documents say what is true: their code compiles, their tables match the code, their links and tests exist.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import ms from 'ms';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { DEFAULTS } from '../../lib/options/session-options.defaults.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

/** Paths from the root of the checkout. */
const DOCUMENTS = [
  'README.md',
  'CHANGELOG.md',
  ...readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];

interface Block {
  /** What stands after the opening fence. */
  readonly info: string;
  readonly code: string;
  /** Line of the opening fence, counted from 1. */
  readonly line: number;
}

function blocksOf(document: string): Block[] {
  const blocks: Block[] = [];
  let open: { info: string; line: number; code: string[] } | undefined;
  for (const [index, text] of read(document).split('\n').entries()) {
    const fence = /^\s*```(.*)$/.exec(text);
    if (fence === null) open?.code.push(text);
    else if (open === undefined) open = { info: fence[1]!.trim(), line: index + 1, code: [] };
    else {
      blocks.push({ ...open, code: open.code.join('\n') });
      open = undefined;
    }
  }
  if (open !== undefined) throw new Error(`${document}:${open.line} opens a code block that nothing closes`);
  return blocks;
}

/** Cells of every table row of a text, header and rule included; `\|` is a bar inside a cell. */
function rowsOf(text: string): string[][] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .split(/(?<!\\)\|/)
        .slice(1, -1)
        .map((cell) => cell.trim().replaceAll('\\|', '|')),
    );
}

/** The text under a heading of level 2, up to the next one. */
function section(document: string, heading: string): string {
  const start = read(document).split(`\n## ${heading}\n`)[1];
  if (start === undefined) throw new Error(`${document} has no section "${heading}"`);
  return start.split('\n## ')[0]!;
}

// --- Code -------------------------------------------------------------------------------------------------------

/** Files of the libraries and of lib/, which every program shares. */
const parsed = new Map<string, ts.SourceFile | undefined>();

/** A program of the given texts as if they lay in test/unit, with test/tsconfig.json and lib/'s types. */
function compile(texts: ReadonlyMap<string, string>): ts.Program {
  const config = join(ROOT, 'test/tsconfig.json');
  const { options, errors } = ts.parseJsonConfigFileContent(
    ts.readConfigFile(config, (path) => ts.sys.readFile(path)).config,
    ts.sys,
    dirname(config),
    undefined,
    config,
  );
  expect(errors).toEqual([]);
  const host = ts.createCompilerHost(options);
  const disk = { ...host };
  host.fileExists = (path) => texts.has(path) || disk.fileExists(path);
  host.readFile = (path) => texts.get(path) ?? disk.readFile(path);
  host.directoryExists = (path) =>
    [...texts.keys()].some((text) => dirname(text) === path) || disk.directoryExists!(path);
  host.getSourceFile = (path, languageVersion, ...rest) => {
    const text = texts.get(path);
    if (text !== undefined) return ts.createSourceFile(path, text, languageVersion);
    if (!parsed.has(path)) parsed.set(path, disk.getSourceFile(path, languageVersion, ...rest));
    return parsed.get(path);
  };
  return ts.createProgram([...texts.keys()], options, host);
}

/** What is wrong with a document's ts blocks, one line each, with the line in the document. */
function mistakesIn(document: string): string[] {
  const folder = join(ROOT, 'test/unit', `__${document.replaceAll(/\W/g, '-')}__`);
  const texts = new Map<string, string>();
  for (const { info, code, line } of blocksOf(document)) {
    if (info !== 'ts') continue;
    // A block that begins with `// some-name.ts` can be imported by the others under that name.
    const name = /^\/\/ ([\w.-]+\.ts)$/m.exec(code.split('\n')[0]!)?.[1] ?? `block-at-${line}.ts`;
    const path = join(folder, name);
    if (texts.has(path)) return [`${document}:${line} is a second block named ${name}`];
    // Empty lines in front, so that the compiler counts the document's lines.
    texts.set(path, '\n'.repeat(line) + code);
  }
  const program = compile(texts);
  return [...texts.keys()].flatMap((path) => {
    const file = program.getSourceFile(path)!;
    return [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)].map(
      (found) => {
        const line = found.file === undefined ? 0 : file.getLineAndCharacterOfPosition(found.start ?? 0).line;
        return `${document}:${line + 1} ${ts.flattenDiagnosticMessageText(found.messageText, ' ')}`;
      },
    );
  });
}

describe('code in the documents', { timeout: 120_000 }, () => {
  it.each(DOCUMENTS)('every ts block of %s compiles against the public API', (document) => {
    expect(mistakesIn(document)).toEqual([]);
  });

  it('has no block of TypeScript or JavaScript that escapes the check', () => {
    const infos = DOCUMENTS.flatMap((document) => blocksOf(document).map(({ info }) => info));
    expect(infos.filter((info) => /ts|js|script|^$/i.test(info) && info !== 'ts')).toEqual([]);
    expect(infos).toContain('ts');
  });

  it('the compiler used here does find a mistake', () => {
    const path = join(ROOT, 'test/unit/__self__/mistake.ts');
    const program = compile(
      new Map([[path, "import { NoSuchThing } from 'nestjs-sessionkit';\nNoSuchThing;"]]),
    );
    const [found] = program.getSemanticDiagnostics(program.getSourceFile(path)!);
    expect(found && ts.flattenDiagnosticMessageText(found.messageText, ' ')).toMatch(/NoSuchThing/);
  });
});

// --- Commands and options -----------------------------------------------------------------------------------------

it('README names exactly two set-up commands, and package.json has their scripts', () => {
  const shell = blocksOf('README.md').filter(({ code }) => /npm (ci|start|test)/.test(code));
  expect(shell.map(({ code }) => code)).toEqual(['npm ci && npm start\nnpm ci && npm test']);
  expect(section('README.md', 'Run it from a clone')).toContain(shell[0]!.code);
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
  expect(scripts).toMatchObject({ start: expect.any(String), test: expect.any(String) });
});

describe('the options table of README.md', { timeout: 120_000 }, () => {
  const rows = new Map(
    rowsOf(section('README.md', 'Options'))
      .filter(([option]) => option!.startsWith('`'))
      .map(([option, standard, effect]) => [option!.slice(1, -1), { standard: standard!, effect: effect! }]),
  );

  it('has a row for every option, and for nothing else', () => {
    expect([...rows.keys()].sort()).toEqual(optionPaths().sort());
    for (const [option, { effect }] of rows) expect(effect, option).not.toBe('');
  });

  it('gives every default as the code has it', () => {
    for (const [option, expected] of leaves(DEFAULTS)) {
      const standard = rows.get(option)?.standard;
      expect([option, valueOf(standard, typeof expected)]).toEqual([option, expected]);
    }
  });

  it('claims no default that the code does not have', () => {
    const known = new Set(leaves(DEFAULTS).map(([option]) => option));
    for (const [option, { standard }] of rows) {
      if (!known.has(option)) expect([option, standard]).toEqual([option, expect.stringMatching(/^\w+$/)]);
    }
  });
});

/** `cache.maxEntries` and so on, from the interface; a group that may also be `false` has a row of its own. */
function optionPaths(): string[] {
  const path = join(ROOT, 'test/unit/__self__/options.ts');
  const program = compile(
    new Map([
      [
        path,
        "import type { SessionModuleOptions } from 'nestjs-sessionkit';\nexport type O = SessionModuleOptions;",
      ],
    ]),
  );
  const checker = program.getTypeChecker();
  const file = program.getSourceFile(path)!;
  const alias = file.statements.find(ts.isTypeAliasDeclaration)!;
  return checker
    .getTypeAtLocation(alias)
    .getProperties()
    .flatMap((option) => {
      const type = checker.getTypeOfSymbolAtLocation(option, alias);
      const parts = type.isUnion() ? type.types : [type];
      const group = parts.find((part) =>
        /^Session\w+(Options|Callbacks)$/.test((part.aliasSymbol ?? part.symbol)?.name ?? ''),
      );
      if (group === undefined) return [option.name];
      const members = group.getProperties().map((member) => `${option.name}.${member.name}`);
      const isSwitch = parts.some((part) => (part.flags & ts.TypeFlags.BooleanLiteral) !== 0);
      return isSwitch ? [option.name, ...members] : members;
    });
}

function leaves(value: object, path = ''): [string, unknown][] {
  return Object.entries(value).flatMap(([key, child]: [string, unknown]): [string, unknown][] =>
    typeof child === 'object' && child !== null && !Array.isArray(child)
      ? leaves(child, `${path}${key}.`)
      : [[path + key, child]],
  );
}

/** The value that a cell such as `'30m'` or `['cookie', 'bearer']` stands for. */
function valueOf(cell: string | undefined, wanted: string): unknown {
  const code = /^`([^`]+)`$/.exec(cell ?? '')?.[1];
  if (code === undefined) return cell;
  const value: unknown = JSON.parse(code.replaceAll("'", '"'));
  return wanted === 'number' && typeof value === 'string' ? ms(value as ms.StringValue) : value;
}

// --- Links and tests ----------------------------------------------------------------------------------------------

describe('links', () => {
  it.each(DOCUMENTS)('every relative link of %s leads somewhere', (document) => {
    const prose = read(document).replaceAll(/```[^]*?```|`[^`]*`/g, '');
    const dead = [...prose.matchAll(/\]\(([^)\s]+)\)/g)]
      .map(([, link]) => link!)
      .filter((link) => !/^[a-z]+:/.test(link))
      .filter((link) => {
        const [path, anchor] = link.split('#') as [string, string | undefined];
        const target = path === '' ? document : join(dirname(document), path);
        return (
          !existsSync(resolve(ROOT, target)) || (anchor !== undefined && !anchorsOf(target).includes(anchor))
        );
      });
    expect(dead).toEqual([]);
  });
});

function anchorsOf(document: string): string[] {
  return [...read(document).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\w\s-]/g, '')
      .replaceAll(' ', '-'),
  );
}

/** A test is named as `path` `title`. */
const TEST_NAME = /`((?:test|lib\/testing)\/[^`]+\.ts)` `([^`]+)`/g;

describe('tests named in the documents', () => {
  it.each(DOCUMENTS)('%s names only tests that exist', (document) => {
    const named = [...read(document).replaceAll('\\|', '|').matchAll(TEST_NAME)];
    const missing = named
      .map(([, path, title]) => ({ path: path!, title: title! }))
      .filter(({ path, title }) => !titlesIn(path).includes(title));
    expect(missing).toEqual([]);
  });

  it('docs/seeds.md has for every name a test, an issue that brings it, or the reason why not', () => {
    const rows = rowsOf(read('docs/seeds.md')).filter(
      ([there]) => there !== 'there' && !/^:?-+/.test(there!),
    );
    expect(rows.length).toBeGreaterThan(150);
    const bare = rows.filter(([, here, shown]) => shown === '' && !/^later \(issue \d\)|^no: /.test(here!));
    expect(bare).toEqual([]);
  });

  it('docs/seeds.md has three cells in every row', () => {
    expect(rowsOf(read('docs/seeds.md')).filter((cells) => cells.length !== 3)).toEqual([]);
  });
});

const titles = new Map<string, readonly string[]>();

/** First arguments of all calls of it(), test(), it.each()() and the like, as they are written in the file. */
function titlesIn(path: string): readonly string[] {
  const known = titles.get(path);
  if (known !== undefined) return known;
  const found: string[] = [];
  titles.set(path, found);
  if (!existsSync(join(ROOT, path))) return found;
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node) && /^(it|test)\b|\.(it|test)$/.test(node.expression.getText())) {
      const title = node.arguments[0];
      if (title !== undefined && ts.isStringLiteralLike(title)) found.push(title.text);
      else if (title !== undefined && ts.isTemplateExpression(title))
        found.push(title.getText().slice(1, -1));
    }
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(path, read(path), ts.ScriptTarget.ES2023, true));
  return found;
}
