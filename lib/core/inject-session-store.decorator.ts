import { Inject } from '@nestjs/common';
import { SESSION_STORE } from '../session.constants.js';

/**
 * Injects the {@link SessionStore} in use.
 *
 * @publicApi
 */
export const InjectSessionStore = (): ParameterDecorator => Inject(SESSION_STORE);
