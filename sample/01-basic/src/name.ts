import { BadRequestException } from '@nestjs/common';

/** Bodies are whatever the client sent: a missing field, a list, an object. */
export function parseName(value: unknown): string {
  const name = typeof value === 'string' ? value.trim() : '';
  if (!/^\P{C}{1,50}$/u.test(name)) {
    throw new BadRequestException('name must have 1 to 50 characters, and no control characters');
  }
  return name;
}
