declare module "*?assembly" {
  /** The compiled module's bytes. */
  const base64: string;
  export default base64;
}

declare module "*?assembly&relaxed" {
  /** The same, with relaxed SIMD. */
  const base64: string;
  export default base64;
}
