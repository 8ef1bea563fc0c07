// What the compiled kernels export; assembly/ says what each computes. Tensors are byte addresses on the shared heap,
// sizes count elements, `work` is working memory of the size that the function ending in Bytes names.

type Address = number;

export interface CpuKernels {
  gemmBytes(): number;
  bindGemm(memory: Address): void;
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
  add(a: Address, b: Address, y: Address, n: number): void;
  scale(x: Address, factor: number, y: Address, n: number): void;
  addRow(y: Address, row: Address, rows: number, width: number): void;
  columnSums(x: Address, sums: Address, rows: number, width: number): void;
  rmsNorm(x: Address, weight: Address, y: Address, rows: number, width: number, eps: number): void;
  rmsNormGradient(
    dy: Address,
    x: Address,
    weight: Address,
    dx: Address,
    dweight: Address,
    rows: number,
    width: number,
    eps: number,
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
    o: Address,
    logsumexp: Address,
    b: number,
    t: number,
    heads: number,
    groups: number,
    k: number,
    p: number,
    v: number,
    scale: number,
    work: Address,
  ): void;
  causalAttentionGradientBytes(t: number, k: number, p: number): number;
  causalAttentionGradient(
    dy: Address,
    q: Address,
    key: Address,
    value: Address,
    shared: Address,
    o: Address,
    logsumexp: Address,
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
    scale: number,
    work: Address,
  ): void;
  decodeAttention(
    q: Address,
    key: Address,
    value: Address,
    lengths: Address,
    o: Address,
    b: number,
    slots: number,
    heads: number,
    groups: number,
    d: number,
    valueLd: number,
    v: number,
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
  expertsBytes(slots: number, d: number, e: number, widest: number): number;
  experts(
    x: Address,
    chosen: Address,
    weights: Address,
    gate: Address,
    up: Address,
    down: Address,
    offsets: Address,
    y: Address,
    hidden: Address,
    n: number,
    d: number,
    topK: number,
    e: number,
    s: number,
    widest: number,
    work: Address,
  ): number;
  expertsGradientBytes(slots: number, d: number, e: number, widest: number): number;
  expertsGradient(
    dy: Address,
    x: Address,
    chosen: Address,
    weights: Address,
    gate: Address,
    up: Address,
    down: Address,
    offsets: Address,
    hidden: Address,
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
  takeRows(table: Address, rows: Address, y: Address, count: number, width: number, tableRows: number): number;
  takeRowsGradient(dy: Address, rows: Address, dtable: Address, count: number, width: number, tableRows: number): void;
  storeRows(target: Address, rows: Address, slots: Address, count: number, width: number, targetRows: number): number;
  copyRows(from: Address, fromLd: number, to: Address, toLd: number, count: number, width: number): void;
  headLossBytes(): number;
  headLossWidestRow(): number;
  firstWrongTarget(targets: Address, weights: Address, m: number, v: number): number;
  headLoss(
    h: Address,
    weight: Address,
    targets: Address,
    weights: Address,
    loss: Address,
    logsumexp: Address,
    m: number,
    d: number,
    v: number,
    work: Address,
  ): void;
  headLossAndGradient(
    h: Address,
    weight: Address,
    targets: Address,
    weights: Address,
    loss: Address,
    logsumexp: Address,
    dh: Address,
    dweight: Address,
    m: number,
    d: number,
    v: number,
    work: Address,
  ): void;
  headLossGradient(
    dy: Address,
    h: Address,
    weight: Address,
    targets: Address,
    weights: Address,
    logsumexp: Address,
    dh: Address,
    dweight: Address,
    m: number,
    d: number,
    v: number,
    work: Address,
  ): void;
  squaredSum(x: Address, y: Address, n: number): void;
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
