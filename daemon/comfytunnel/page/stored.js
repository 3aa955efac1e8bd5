/* What this browser keeps over a reload. It may hold anything: somebody else's, an older version's, nothing. */

/** Seeds may be BigInt, which JSON has not. */
export const written = (value, indent) => JSON.stringify(value, (_, inner) => (typeof inner === "bigint" ? String(inner) : inner), indent);

export function stored(where, key) {
  try {
    return JSON.parse(where.getItem(key));
  } catch {
    return null;
  }
}

export function keep(where, key, value) {
  try {
    where.setItem(key, written(value));
  } catch {
    where.removeItem(key); // too large to be kept over a reload; it can be sent all the same
  }
}
