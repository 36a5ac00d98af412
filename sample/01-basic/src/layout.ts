import { html, Html } from './html.js';
import type { Theme } from './session-data.js';

/** A whole page. */
export function layout(title: string, content: Html, theme?: Theme): string {
  return html`<!doctype html>
    <html lang="en" style="color-scheme: ${theme ?? 'light dark'}">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${title} · nestjs-sessionkit</title>
        <link rel="icon" href="data:," />
        <style>
          ${STYLE}
        </style>
      </head>
      <body>
        <main>${content}</main>
        <footer class="quiet">
          <form method="post" action="/theme" class="row">
            <button name="theme" value="light">Light</button><button name="theme" value="dark">Dark</button>
          </form>
          nestjs-sessionkit, sample 01-basic
        </footer>
      </body>
    </html>`.text;
}

const STYLE = new Html(`
  :root {
    color-scheme: light dark;
    --ground: light-dark(#f3f4f8, #101218);
    --card: light-dark(#ffffff, #191c25);
    --text: light-dark(#1b1e28, #e9ebf2);
    --quiet: light-dark(#646b7d, #9aa2b5);
    --line: light-dark(#e3e6ee, #2b303d);
    --accent: light-dark(#4253d6, #8b98ff);
    --on-accent: light-dark(#ffffff, #101218);
    --danger: light-dark(#b8283b, #ff8a97);
  }
  * { box-sizing: border-box; }
  body {
    margin: 0; padding: 10vh 1rem 2rem; min-height: 100vh;
    background: var(--ground); color: var(--text);
    font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif;
  }
  main {
    max-width: 44rem; margin: 0 auto; padding: 2rem;
    background: var(--card); border: 1px solid var(--line); border-radius: 16px;
    box-shadow: 0 1px 2px #0000000a, 0 12px 32px #0000000f;
  }
  footer { text-align: center; font-size: 0.8rem; margin-top: 1.5rem; }
  h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
  h2 { font-size: 1.05rem; margin: 0; }
  p { margin: 0.25rem 0 0; }
  a { color: var(--accent); }
  .quiet { color: var(--quiet); }
  .hidden { position: absolute; clip-path: inset(50%); }
  header, .title, .row, .views { display: flex; gap: 1rem; align-items: center; justify-content: space-between; }
  header { align-items: start; }
  .row { margin-top: 1.25rem; gap: 0.5rem; }
  footer .row { margin: 0 0 0.75rem; justify-content: center; }
  .views { margin: 1.75rem 0; padding: 1rem 1.25rem; background: var(--ground); border-radius: 12px; }
  .views strong { font-size: 2.5rem; line-height: 1; font-variant-numeric: tabular-nums; color: var(--accent); }
  .views p { flex: 1; margin: 0; }
  input, button { font: inherit; border-radius: 8px; border: 1px solid var(--line); }
  input { flex: 1; min-width: 0; padding: 0.55rem 0.8rem; background: var(--ground); color: inherit; }
  button { padding: 0.4rem 0.9rem; background: var(--card); color: inherit; cursor: pointer; white-space: nowrap; }
  button:hover:enabled { border-color: currentColor; }
  button:disabled { opacity: 0.45; cursor: default; }
  :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
  .primary { padding: 0.55rem 1.2rem; background: var(--accent); border-color: var(--accent); color: var(--on-accent); font-weight: 600; }
  .danger { color: var(--danger); }
  table { width: 100%; margin-top: 0.75rem; border-collapse: collapse; font-size: 0.95rem; }
  th, td { padding: 0.65rem 0.75rem 0.65rem 0; text-align: left; border-top: 1px solid var(--line); }
  th { border: 0; font-size: 0.8rem; font-weight: 500; color: var(--quiet); padding-bottom: 0.35rem; }
  td:first-child { font-weight: 500; }
  section { margin-top: 1.75rem; }
  code { font-size: 0.85em; }
  .action { text-align: right; padding-right: 0; height: 3.6rem; }
  .badge {
    padding: 0.2rem 0.65rem; border-radius: 99px; font-size: 0.8rem; font-weight: 600; white-space: nowrap;
    color: var(--accent); background: color-mix(in srgb, var(--accent) 14%, transparent);
  }
  @media (max-width: 32rem) {
    body { padding-top: 1rem; }
    main { padding: 1.25rem; }
    th:nth-child(2), td:nth-child(2) { display: none; }
  }
`);
