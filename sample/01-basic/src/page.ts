import type { SessionInfo } from 'nestjs-sessionkit';
import { ADMIN } from './admin.guard.js';
import { html, type Html } from './html.js';
import { layout } from './layout.js';
import type { Theme } from './session-data.js';
import { deviceOf, timeAgo } from './words.js';

export interface SessionsView {
  readonly userId: string;
  readonly views: number;
  readonly theme: Theme | undefined;
  /** Id of the session that asks. */
  readonly current: string;
  readonly list: readonly SessionInfo[];
}

export function signInPage(theme: Theme | undefined): string {
  return layout(
    'Sign in',
    html`
      <h1>Sign in</h1>
      <p class="quiet">As anyone: this sample asks for no password.</p>
      <form method="post" action="/sign-in" class="row">
        <input
          name="name"
          aria-label="Name"
          placeholder="Your name"
          required
          pattern=".*\\S.*"
          maxlength="50"
          autofocus
          autocomplete="off"
        />
        <button class="primary">Sign in</button>
      </form>
    `,
    theme,
  );
}

export function sessionsPage({ userId, views, theme, current, list }: SessionsView): string {
  const others = list.length - 1;
  const places = others === 1 ? '1 other place' : `${others} other places`;
  const signedIn = others > 0 ? `Signed in here and in ${places}.` : 'Signed in here only.';
  return layout(
    'Your sessions',
    html`
      <header>
        <div>
          <h1>Hello, <span id="user">${userId}</span></h1>
          <p class="quiet">${signedIn}</p>
          ${userId === ADMIN ? html`<p><a href="/admin">Everybody’s sessions</a></p>` : ''}
        </div>
        <form method="post" action="/sign-out"><button>Sign out</button></form>
      </header>
      <div class="views">
        <strong id="views">${views}</strong>
        <p class="quiet">${views === 1 ? 'page view' : 'page views'} in this session</p>
        <a href="/">Count one more</a>
      </div>
      <div class="title">
        <h2>Your sessions</h2>
        <form method="post" action="/sessions/end-others">
          <button ${others > 0 ? '' : 'disabled'}>Sign out all others</button>
        </form>
      </div>
      <table>
        <thead>
          <tr>
            <th>Device</th>
            <th>Address</th>
            <th>Last seen</th>
            <th><span class="hidden">Action</span></th>
          </tr>
        </thead>
        <tbody>
          ${list.map((info) => row(info, info.id === current))}
        </tbody>
      </table>
    `,
    theme,
  );
}

export function unavailablePage(): string {
  return layout(
    'Try again soon',
    html`
      <h1>Try again soon</h1>
      <p class="quiet">We cannot reach our sessions right now. You are not signed out.</p>
      <p><a href="/">Try again</a></p>
    `,
  );
}

function row({ id, metadata, idle }: SessionInfo, isCurrent: boolean): Html {
  const action = isCurrent
    ? html`<span class="badge">This one</span>`
    : html`<form method="post" action="/sessions/${id}/end"><button class="danger">End</button></form>`;
  return html`<tr data-session="${id}">
    <td title="${metadata.userAgent ?? ''}">${deviceOf(metadata.userAgent)}</td>
    <td class="quiet">${metadata.ip ?? 'unknown'}</td>
    <td class="quiet">${timeAgo(idle)}</td>
    <td class="action">${action}</td>
  </tr>`;
}
