// In which order vitest starts the files: long ones first, so that no core is idle while one of them runs at the end.
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/**
 * Files that take more than 15 s on two cores, the longest first, but those that mostly wait between those that work. The
 * size of a file, which vitest goes by, says little of that.
 */
const LONG = [
  'sample.e2e-spec.ts',
  'http-session.e2e-spec.ts',
  'outage-policy.e2e-spec.ts',
  'scheduler.e2e-spec.ts',
  'read-your-writes.e2e-spec.ts',
  'sample-own-store.e2e-spec.ts',
  'cookies.e2e-spec.ts',
  'to-express-store.e2e-spec.ts',
  'describe-session-store.spec.ts',
  'disk-session.store.spec.ts',
  'docs.spec.ts',
  'from-express-store.integration-spec.ts',
  'disk-store.integration-spec.ts',
  'sweep.integration-spec.ts',
  'sentinel.fault-spec.ts',
  'server.fault-spec.ts',
  'cluster.integration-spec.ts',
  'registry.integration-spec.ts',
  'cluster.fault-spec.ts',
  'breaker.integration-spec.ts',
  'limits.integration-spec.ts',
  'links.fault-spec.ts',
  'redis-session.store.integration-spec.ts',
  'login-crash.fault-spec.ts',
  'wall-clock.integration-spec.ts',
  'process.fault-spec.ts',
  'demotion.fault-spec.ts',
];

const rank = ({ moduleId }: TestSpecification): number => {
  const place = LONG.indexOf(moduleId.slice(moduleId.lastIndexOf('/') + 1));
  return place === -1 ? LONG.length : place;
};

export class LongestFirst extends BaseSequencer {
  /** The files of a project stay together: its processes go on only to files of the same project. */
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const byProject = new Map<unknown, TestSpecification[]>();
    for (const file of await super.sort(files)) {
      const sorted = byProject.get(file.project) ?? [];
      byProject.set(file.project, sorted);
      sorted.push(file);
    }
    return [...byProject.values()].flatMap((sorted) => sorted.sort((a, b) => rank(a) - rank(b)));
  }
}
