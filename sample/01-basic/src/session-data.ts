// Tells nestjs-sessionkit, for the whole app, what `session.data` holds.
declare module 'nestjs-sessionkit' {
  interface SessionData {
    /** Page views since sign-in; absent before the first. */
    views?: number;
  }
}

export {};
