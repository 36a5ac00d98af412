import type { SessionInfo } from 'nestjs-sessionkit';
import { html, type Html } from './html.js';
import { layout } from './layout.js';
import type { Theme } from './session-data.js';
import { deviceOf, timeAgo, timeUntil } from './words.js';

export interface UserView {
  readonly userId: string;
  readonly sessions: readonly SessionInfo[];
}

export interface AdminView {
  readonly csrfToken: string;
  readonly theme: Theme | undefined;
  /** Id of the session that asks. */
  readonly current: string;
  /** Number of live sessions, those of visitors who are not signed in included. */
  readonly live: number;
  /** Of these, used within 15 minutes. */
  readonly active: number;
  readonly users: readonly UserView[];
  /** Where the list goes on; null at its end. */
  readonly next: string | null;
}

export function adminPage({ csrfToken, theme, current, live, active, users, next }: AdminView): string {
  return layout(
    'All sessions',
    html`
      <header>
        <div>
          <h1>All sessions</h1>
          <p class="quiet">
            <strong id="live">${live}</strong> live, visitors’ included;
            <strong id="active">${active}</strong> active within 15 minutes.
          </p>
          <p><a href="/">Your sessions</a></p>
        </div>
        <form method="post" action="/admin/end-all">
          ${csrfField(csrfToken)}<button class="danger">End everybody’s</button>
        </form>
      </header>
      ${users.map((user) => section(user, current, csrfToken))}
      ${next === null ? '' : html`<p><a href="/admin?after=${next}" rel="next">More users</a></p>`}
    `,
    theme,
  );
}

/** Shown with the 401 that `@RecentLogin()` answers. */
export function confirmPage(code: string, csrfToken: string): string {
  return layout(
    'Is it you?',
    html`
      <h1>Is it you?</h1>
      <p class="quiet">
        You signed in a while ago, and this is for those who did just now (<code id="code">${code}</code>). A
        real app asks for your password here.
      </p>
      <form method="post" action="/admin/confirm" class="row">
        ${csrfField(csrfToken)}<button class="primary">Confirm</button>
      </form>
      <p><a href="/admin">Back</a></p>
    `,
  );
}

function section({ userId, sessions }: UserView, current: string, csrfToken: string): Html {
  return html`
    <section data-user="${userId}">
      <div class="title">
        <h2>${userId}</h2>
        <form method="post" action="/admin/users/end">
          ${csrfField(csrfToken)}<input type="hidden" name="user" value="${userId}" />
          <button>End all</button>
        </form>
      </div>
      <table>
        <thead>
          <tr>
            <th>Device</th>
            <th>Id</th>
            <th>Last seen</th>
            <th>Expires</th>
            <th><span class="hidden">Action</span></th>
          </tr>
        </thead>
        <tbody>
          ${sessions.map((info) => row(info, info.id === current, csrfToken))}
        </tbody>
      </table>
    </section>
  `;
}

function row(info: SessionInfo, isCurrent: boolean, csrfToken: string): Html {
  const { id, metadata, idle, lastAccess, expiresAt } = info;
  const now = lastAccess + idle; // the store's clock
  const button = html`<form method="post" action="/admin/sessions/${id}/end">
    ${csrfField(csrfToken)}<button class="danger">End</button>
  </form>`;
  return html`<tr data-session="${id}">
    <td title="${metadata.userAgent ?? ''}">${deviceOf(metadata.userAgent)}</td>
    <td class="quiet"><code>${id}</code></td>
    <td class="quiet">${timeAgo(idle)}</td>
    <td class="quiet">${expiresAt === null ? 'never' : timeUntil(expiresAt - now)}</td>
    <td class="action">${isCurrent ? html`<span class="badge">Yours</span>` : button}</td>
  </tr>`;
}

function csrfField(token: string): Html {
  return html`<input type="hidden" name="_csrf" value="${token}" />`;
}
