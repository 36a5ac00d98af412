// Tells nestjs-sessionkit, for the whole app, what `session.data` holds.
declare module 'nestjs-sessionkit' {
  interface SessionData {
    /** Page views since sign-in; absent before the first. */
    views?: number;
    /** Absent: as the browser prefers. */
    theme?: Theme;
  }
}

export const THEMES = ['light', 'dark'] as const;
export type Theme = (typeof THEMES)[number];
