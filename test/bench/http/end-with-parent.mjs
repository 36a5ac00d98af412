/** How long an app may take to close after its benchmark has gone. */
const GRACE_MS = 1_500;

/** A listening server would outlive a benchmark that was killed. */
export function endWithParent() {
  process.once('disconnect', () => setTimeout(() => process.exit(), GRACE_MS).unref());
}
