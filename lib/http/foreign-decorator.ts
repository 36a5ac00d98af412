import type { ModulesContainer } from '@nestjs/core';

/** `ROUTE_ARGS_METADATA` and `RouteParamtypes.SESSION` of `@nestjs/common`, which it does not export from its index. */
const ROUTE_ARGUMENTS = '__routeArguments__';
const SESSION_PARAMETER = 7;

/** Handlers with a parameter that has Nest's own `@Session()`, as `Controller.method`. */
export function handlersWithForeignSession(modules: ModulesContainer): string[] {
  const found = new Set<string>();
  for (const { controllers } of modules.values()) {
    for (const { metatype } of controllers.values()) {
      if (typeof metatype !== 'function') continue;
      for (const method of methodsOf(metatype.prototype as object)) {
        const declared: unknown = Reflect.getMetadata(ROUTE_ARGUMENTS, metatype, method);
        const keys = typeof declared === 'object' && declared !== null ? Object.keys(declared) : [];
        if (keys.some((key) => key.startsWith(`${SESSION_PARAMETER}:`)))
          found.add(`${metatype.name}.${method}`);
      }
    }
  }
  return [...found];
}

function methodsOf(prototype: object): string[] {
  const names: string[] = [];
  for (
    let level: object | null = prototype;
    level !== null && level !== Object.prototype;
    level = Object.getPrototypeOf(level) as object | null
  )
    names.push(...Object.getOwnPropertyNames(level));
  return names;
}
