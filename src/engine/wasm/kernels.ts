// What the compiled kernels export; assembly/ says what each computes. Tensors are byte addresses on the shared heap,
// sizes count elements, `work` is working memory of the size that the function ending in Bytes names.

type Address = number;

export interface CpuKernels {
  ownBytes(): number;
  bindOwn(memory: Address): void;
  gemm(
    transposeA: boolean,
    transposeB: boolean,
    m: number,
    n: number,
    k: number,
    a: Address,
    lda: number,
    b: Address,
    ldb: number,
    c: Address,
    ldc: number,
    accumulate: boolean,
  ): void;
  /** B is packed [rows, columns]; format 0 f16, 1 int8, 2 int4. c = a·Bᵀ if transposeB, else a·B. */
  gemmPacked(
    format: number,
    transposeB: boolean,
    m: number,
    n: number,
    k: number,
    a: Address,
    lda: number,
    words: Address,
    rows: number,
    columns: number,
    c: Address,
    ldc: number,
    accumulate: boolean,
  ): void;
  unpackRows(
    format: number,
    words: Address,
    rows: number,
    columns: number,
    firstRow: number,
    count: number,
    y: Address,
  ): void;
  threadsBytes(): number;
  bindThreads(table: Address, count: number): void;
  add(a: Address, b: Address, y: Address, n: number): void;
  scale(x: Address, factor: number, y: Address, n: number): void;
  scaleBy(x: Address, factor: Address, y: Address, n: number): void;
  addRow(y: Address, row: Address, rows: number, width: number): void;
  columnSums(x: Address, sums: Address, rows: number, width: number): void;
  rmsNorm(
    x: Address,
    ldx: number,
    positions: Address,
    weight: Address,
    y: Address,
    rows: number,
    width: number,
    eps: number,
  ): void;
  rmsNormGradientBytes(rows: number, width: number): number;
  rmsNormGradient(
    dy: Address,
    places: Address,
    taken: number,
    x: Address,
    ldx: number,
    weight: Address,
    passed: Address,
    dx: Address,
    dweight: Address,
    rows: number,
    width: number,
    eps: number,
    work: Address,
  ): void;
  swiGlu(gate: Address, up: Address, y: Address, n: number): void;
  swiGluGradient(dy: Address, gate: Address, up: Address, dgate: Address, dup: Address, n: number): void;
  rotate(
    x: Address,
    positions: Address,
    cos: Address,
    sin: Address,
    y: Address,
    tokens: number,
    heads: number,
    width: number,
    half: number,
    tablePositions: number,
    interleaved: boolean,
    inverse: boolean,
  ): number;
  causalAttentionBytes(t: number, k: number, p: number): number;
  causalAttention(
    q: Address,
    key: Address,
    value: Address,
    shared: Address,
    starts: Address,
    o: Address,
    stats: Address,
    b: number,
    t: number,
    heads: number,
    groups: number,
    k: number,
    p: number,
    v: number,
    keyStep: number,
    valueStep: number,
    scale: number,
    work: Address,
  ): void;
  causalAttentionGradientBytes(b: number, t: number, groups: number, k: number, p: number): number;
  causalAttentionGradient(
    dy: Address,
    q: Address,
    key: Address,
    value: Address,
    shared: Address,
    o: Address,
    stats: Address,
    dq: Address,
    dkey: Address,
    dvalue: Address,
    dshared: Address,
    b: number,
    t: number,
    heads: number,
    groups: number,
    k: number,
    p: number,
    v: number,
    keyStep: number,
    valueStep: number,
    scale: number,
    work: Address,
  ): void;
  firstWrongPosition(positions: Address, tokens: number, known: number): number;
  storeKeys(
    keys: Address,
    values: Address,
    positions: Address,
    cos: Address,
    sin: Address,
    keyCache: Address,
    valueCache: Address,
    b: number,
    t: number,
    slots: number,
    groups: number,
    d: number,
    half: number,
    interleaved: boolean,
  ): void;
  storeLatents(
    compressed: Address,
    weight: Address,
    positions: Address,
    cos: Address,
    sin: Address,
    cache: Address,
    b: number,
    t: number,
    slots: number,
    r: number,
    half: number,
    eps: number,
    interleaved: boolean,
  ): void;
  decodeAttentionBytes(slots: number, d: number): number;
  decodeAttention(
    q: Address,
    keys: Address,
    values: Address,
    positions: Address,
    cos: Address,
    sin: Address,
    o: Address,
    b: number,
    slots: number,
    heads: number,
    groups: number,
    d: number,
    half: number,
    interleaved: boolean,
    scale: number,
    work: Address,
  ): void;
  latentDecodeBytes(slots: number, width: number): number;
  latentDecode(
    q: Address,
    cache: Address,
    weight: Address,
    positions: Address,
    cos: Address,
    sin: Address,
    o: Address,
    b: number,
    slots: number,
    heads: number,
    n: number,
    v: number,
    r: number,
    half: number,
    interleaved: boolean,
    scale: number,
    work: Address,
  ): void;
  route(
    logits: Address,
    bias: Address,
    weights: Address,
    experts: Address,
    n: number,
    e: number,
    topK: number,
    softmax: boolean,
    normalize: boolean,
    scale: number,
    groups: number,
    groupsKept: number,
    work: Address,
  ): void;
  routeGradient(
    dweights: Address,
    logits: Address,
    experts: Address,
    dlogits: Address,
    n: number,
    e: number,
    topK: number,
    softmax: boolean,
    normalize: boolean,
    scale: number,
    work: Address,
  ): void;
  expertLoads(chosen: Address, before: Address, loads: Address, slots: number, e: number): void;
  balanceExperts(bias: Address, loads: Address, speed: Address, worst: Address, e: number): void;
  expertsBytes(slots: number, d: number, widest: number): number;
  experts(
    x: Address,
    chosen: Address,
    weights: Address,
    matrices: Address,
    offsets: Address,
    y: Address,
    hidden: Address,
    order: Address,
    n: number,
    d: number,
    topK: number,
    e: number,
    s: number,
    widest: number,
    accumulate: boolean,
    work: Address,
  ): void;
  expertsGradientBytes(slots: number, d: number, widest: number): number;
  expertsGradient(
    dy: Address,
    x: Address,
    weights: Address,
    matrices: Address,
    offsets: Address,
    hidden: Address,
    order: Address,
    dx: Address,
    dweights: Address,
    dgate: Address,
    dup: Address,
    ddown: Address,
    n: number,
    d: number,
    topK: number,
    e: number,
    s: number,
    widest: number,
    work: Address,
  ): void;
  gatedMlpBytes(f: number): number;
  gatedMlp(
    x: Address,
    matrices: Address,
    y: Address,
    hidden: Address,
    n: number,
    d: number,
    f: number,
    accumulate: boolean,
    work: Address,
  ): void;
  gatedMlpGradientBytes(f: number): number;
  gatedMlpGradient(
    dy: Address,
    x: Address,
    matrices: Address,
    hidden: Address,
    dx: Address,
    dgate: Address,
    dup: Address,
    ddown: Address,
    n: number,
    d: number,
    f: number,
    accumulate: boolean,
    work: Address,
  ): void;
  takeRows(
    part: Address,
    format: number,
    partRows: number,
    start: number,
    rows: Address,
    y: Address,
    count: number,
    width: number,
  ): void;
  takeRowsGradient(dy: Address, rows: Address, dtable: Address, count: number, width: number, tableRows: number): void;
  copyRows(from: Address, fromLd: number, to: Address, toLd: number, count: number, width: number): void;
  firstOutside(indices: Address, count: number, limit: number): number;
  integerAt(integers: Address, i: number): number;
  headLossBytes(v: number, k: number): number;
  firstWrongTarget(targets: Address, weights: Address, m: number, k: number, v: number): number;
  headLoss(
    h: Address,
    head: Address,
    parts: number,
    targets: Address,
    logProbabilities: Address,
    weights: Address,
    loss: Address,
    dh: Address,
    dweight: Address,
    m: number,
    d: number,
    v: number,
    k: number,
    temperature: number,
    work: Address,
  ): void;
  sampleBytes(): number;
  sampleTokens(
    logits: Address,
    uniforms: Address,
    tokens: Address,
    b: number,
    v: number,
    temperature: number,
    topK: number,
    topP: number,
    work: Address,
  ): void;
  advance(ids: Address, positions: Address, tokens: Address, b: number, last: number): void;
  topLogProbabilitiesBytes(v: number): number;
  topLogProbabilities(
    h: Address,
    head: Address,
    parts: number,
    ids: Address,
    logProbabilities: Address,
    m: number,
    d: number,
    v: number,
    k: number,
    temperature: number,
    work: Address,
  ): void;
  squaredSumBytes(n: number): number;
  squaredSum(x: Address, y: Address, n: number, work: Address): void;
  adamW(
    parameter: Address,
    gradient: Address,
    m: Address,
    v: Address,
    squaredNorm: Address,
    rates: Address,
    n: number,
    clipNorm: number,
    beta1: number,
    beta2: number,
    rest1: number,
    rest2: number,
    eps: number,
    decays: boolean,
  ): void;
}
