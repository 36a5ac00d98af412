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

/** Controllers and providers, or methods of them, that have this metadata with this value, as `Class` or `Class.method`. */
export function markedWith(modules: ModulesContainer, key: string, value: unknown): string[] {
  const found = new Set<string>();
  for (const { controllers, providers } of modules.values()) {
    for (const { metatype } of [...controllers.values(), ...providers.values()]) {
      const prototype =
        typeof metatype === 'function' ? (metatype.prototype as object | undefined) : undefined;
      if (typeof metatype !== 'function' || typeof prototype !== 'object') continue;
      if (Reflect.getMetadata(key, metatype) === value) found.add(metatype.name);
      for (const name of methodsOf(prototype)) {
        const method = valueOf(prototype, name);
        if (typeof method === 'function' && Reflect.getMetadata(key, method) === value)
          found.add(`${metatype.name}.${name}`);
      }
    }
  }
  return [...found];
}

/** Without calling a getter. */
function valueOf(prototype: object, name: string): unknown {
  for (
    let level: object | null = prototype;
    level !== null;
    level = Object.getPrototypeOf(level) as object | null
  ) {
    const property = Object.getOwnPropertyDescriptor(level, name);
    if (property !== undefined) return property.value as unknown;
  }
  return undefined;
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
