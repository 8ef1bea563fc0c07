declare module "*?assembly" {
  /** The compiled module's bytes. */
  const base64: string;
  export default base64;
}
