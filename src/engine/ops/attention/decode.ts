// WGSL: one query against all that the cache holds of its row, by one workgroup.

export const DECODE_THREADS = 128;

interface Cached {
  /** Width of the query and of a key. */
  width: number;
  valueWidth: number;
  /** An entry of a key or value of row `b` for query head `head`. */
  key: (slot: string, d: string) => string;
  value: (slot: string, d: string) => string;
}

/**
 * `attend(b, head, thread)`: `collected` = the values of slots 0..positions[b] weighted by the softmax of `query`·key *
 * u.scale. As many slots at a time as there are threads, with a running maximum and sum (Milakov & Gimelshein, 2018).
 */
export const attendText = ({ width, valueWidth, key, value }: Cached): string => /* wgsl */ `
  var<workgroup> query: array<f32, ${width}>;
  var<workgroup> collected: array<f32, ${valueWidth}>;
  var<workgroup> slotWeights: array<f32, THREADS>;
  fn attend(b: u32, head: u32, thread: u32) {
    let seen = min(u32(max(positions[b] + 1, 0)), u.S);
    for (var d = thread; d < ${valueWidth}u; d += THREADS) { collected[d] = 0.0; }
    var most = -3.0e38;
    var sum = 0.0;
    for (var base = 0u; base < seen; base += THREADS) {
      workgroupBarrier();
      let slot = base + thread;
      var logit = -3.0e38;
      if (slot < seen) {
        var product = 0.0;
        for (var d = 0u; d < ${width}u; d++) { product += query[d] * ${key("slot", "d")}; }
        logit = product * u.scale;
      }
      slotWeights[thread] = logit;
      workgroupBarrier();
      let count = min(THREADS, seen - base);
      var above = most;
      for (var i = 0u; i < count; i++) { above = max(above, slotWeights[i]); }
      workgroupBarrier();
      if (slot < seen) { slotWeights[thread] = exp(logit - above); }
      workgroupBarrier();
      let keep = exp(most - above);
      most = above;
      sum *= keep;
      for (var i = 0u; i < count; i++) { sum += slotWeights[i]; }
      for (var d = thread; d < ${valueWidth}u; d += THREADS) {
        var entry = collected[d] * keep;
        for (var i = 0u; i < count; i++) { entry += slotWeights[i] * ${value("(base + i)", "d")}; }
        collected[d] = entry;
      }
    }
    for (var d = thread; d < ${valueWidth}u; d += THREADS) { collected[d] /= sum; }
    workgroupBarrier();
  }
`;
