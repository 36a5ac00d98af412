// One clock for all processes of this machine, so that what one did can be compared with what another saw.

// CLOCK_MONOTONIC counts from boot, for everyone alike; performance.now() is the same clock from the process's start.
const sinceBoot = Number(process.hrtime.bigint()) / 1e6 - performance.now();

/** Milliseconds on the machine's monotonic clock (not on the wall clock, which may be set back). */
export const now = () => sinceBoot + performance.now();
