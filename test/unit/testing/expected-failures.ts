// Which tests of the suite fail over which broken store, in the order of the suite: exactly these.
import { ODD_USER_IDS } from '../../../lib/testing/odd-values.js';
import type * as broken from './broken-stores.js';

/** The tests of odd userIds, which do a little of everything. */
const USERS = ODD_USER_IDS.map((userId) => {
  const shown = Array.from(JSON.stringify(userId)).slice(0, 60).join('');
  return `a session of the user ${shown} is found, touched, moved and ended`;
});

export const FAILURES: Record<keyof typeof broken, readonly string[]> = {
  ServesExpired: [
    'set() with keepExpiry does not keep an idle session alive',
    'touch() keeps a session alive past its idle timeout, never past its absolute deadline',
    'an idle session is there before its deadline and absent for every method after it',
    'with idleTimeout 0 only the absolute deadline ends a session',
    'with absoluteTimeout 0 only idleness ends a session',
  ],
  Resurrects: [
    'set() after destroy() is gone and writes nothing',
    'move() and set() of one record at once: the write is either moved on top of or refused',
    'clear() ends every session and leaves the store usable',
    'what changed a record between its reading and its end does not keep destroy() from ending it',
    'destroy() against set(), 1,000 times: none resurrected',
  ],
  IgnoresVersions: [
    'set() on a superseded record is a conflict that carries the current one and writes nothing',
    'set() with the record of an earlier life of the id is a conflict',
    'of two writers on one version exactly one writes, 200 times',
    '100 increments at once, each repeated on top of what it met, add 100',
    'of two copies of one record only the first is saved, and both stay as they were read',
  ],
  OverwritesTaken: [
    'create() of a live id is taken and changes nothing',
    'of ten parallel create() of one id exactly one is created',
  ],
  CreatesTwice: ['of ten parallel create() of one id exactly one is created'],
  TouchMovesDeadline: [
    'touch() after minInterval sets lastAccess and nothing else',
    'touch() keeps a session alive past its idle timeout, never past its absolute deadline',
  ],
  DestroyIsAlwaysTrue: [
    'destroy() is true once, then false, and false for an unknown id',
    'successorOf() tells of it for longer than reads follow it, and of no other id',
    'set(), touch(), move() and destroy() of the old id are refused and do not reach the new one',
    'an idle session is there before its deadline and absent for every method after it',
  ],
  DestroyEndsNothing: [
    'create() after destroy() makes a new session with a higher version',
    'set() after destroy() is gone and writes nothing',
    'set() with the record of an earlier life of the id is a conflict',
    'touch() of an unknown or ended session resolves to null and creates nothing',
    'destroy() is true once, then false, and false for an unknown id',
    'destroy() with no hint or a wrong one ends the session and its entry in the list',
    'move() of an ended session to ann is gone and creates nothing',
    'move() of an ended session to bob is gone and creates nothing',
    'successorOf() tells of it for longer than reads follow it, and of no other id',
    'get() of the old id is null at once when the new one ends, by destroy, destroyMany or clear',
    'destroyMany() ends the user’s sessions and tells which were live',
    'create() at the limit that rejects creates nothing, and succeeds once one has ended or expired',
    'all() yields each live session once and length() counts them, ended ones left out',
    'clear() tells each session that was alive once, with its user, and none that was not',
    'list(), listUsers() and countActive() show what was moved under its new id and user only, and nothing that has ended',
    'a place beyond the end, or of a session that is gone, is a place like any other',
    ...USERS,
    'versions grow with every write, over destroy() and create() of the same id too',
    'what changed a record between its reading and its end does not keep destroy() from ending it',
    'destroy() against set(), 1,000 times: none resurrected',
    'destroy() against touch(), 300 times: none resurrected, no list entry left',
    'all() allows its reader to end each session it is shown',
  ],
  AllRepeats: [
    'create() of an expired id succeeds with a higher version',
    'the old id is in no list and counts as no session',
    'all() yields each live session once and length() counts them, ended ones left out',
    'list() gives everybody’s sessions, most recently active first; only use moves one to the front',
    'list() in parts of every size gives each session once and in order, those of one millisecond too',
    'activeSince: list(), listUsers() and countActive() take what was active then or later, in parts too',
    'list() and listUsers() never show what has expired, swept or not, and parts are not cut short by it',
    'countActive() does not count what has expired, swept or not',
    'list(), listUsers() and countActive() show what was moved under its new id and user only, and nothing that has ended',
    'a place beyond the end, or of a session that is gone, is a place like any other',
    'what another process creates and uses is listed and counted within about a second',
    'all(), length() and clear() of 10,000 sessions miss none and repeat none, clear() in bounded batches',
    'all() can be left half way, and gone through by two at once',
    'all() allows its reader to end each session it is shown',
  ],
  AllOmits: [
    'all() yields each live session once and length() counts them, ended ones left out',
    'all(), length() and clear() of 10,000 sessions miss none and repeat none, clear() in bounded batches',
    'all() allows its reader to end each session it is shown',
  ],
  ShowsOtherUsers: ['userSessions() of an unknown user is empty and tells the store’s time'],
  ManglesMetadata: [
    'the metadata {"label":"Ann’s \\"phone\\" \\\\ \'desk\'","userAgent":"a\\nb\\r\\nc\\ come back from create, set, touch and move',
    'the metadata {"ip":"2001:db8::1%eth0","label":"用户-😀-👩‍👩‍👧"} come back from create, set, touch and move',
    'the metadata {"ip":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx come back from create, set, touch and move',
  ],
  MoveLeavesOld: [
    'move() within one user inherits createdAt and absolute deadline and ends the old id',
    'move() of an anonymous session to a new anonymous id inherits as well',
    'move() that restarts the absolute timeout of ann’s session counts it from now, and keeps the time of creation',
    'move() that restarts the absolute timeout of nobody’s session counts it from now, and keeps the time of creation',
    'move() from nobody to a user starts a life of its own in the user’s list',
    'move() from one user to another changes both lists',
    'move() from a user to nobody leaves no list behind',
    'move() to ann: at no moment are both ids usable',
    'move() to bob: at no moment are both ids usable',
    'move() and set() of one record at once: the write is either moved on top of or refused',
    'get() of the old id is null once the new one has been moved on to ann without an alias',
    'get() of the old id is null once the new one has been moved on to bob without an alias',
    'list(), listUsers() and countActive() show what was moved under its new id and user only, and nothing that has ended',
    'with both timeouts 0 a session does not end',
    ...USERS,
  ],
  SavesLate: ['destroy() against set(), 1,000 times: none resurrected'],
  ClearsAtOnce: [
    'all(), length() and clear() of 10,000 sessions miss none and repeat none, clear() in bounded batches',
  ],
  IgnoresLimits: [
    'create() at the limit ends the least recently used session and tells which',
    'create() at the limit that rejects creates nothing, and succeeds once one has ended or expired',
    'of 20 create() at once at the limit as many are left as it allows',
  ],
};
