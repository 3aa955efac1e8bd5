/* The form of the chosen workflow. (In the making.) */

export function begin() {}
export function use() { return false; }
