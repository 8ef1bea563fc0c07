// What data look like between the files they come from and the batches a model is trained on.

/** One question with a worked way to its answer. */
export interface Case {
  id: string;
  language: "en" | "zh";
  question: string;
  /** The steps, one per line, as they stand between <think> and </think>. */
  chain: string;
  /** What follows the chain; graded by comparing with what the model says. */
  answer: string;
  /** Properties of the case that a table may break down by, e.g. "unseen wording". */
  slices: string[];
}

export interface CaseStudy {
  name: string;
  seed: number;
  train: Case[];
  validation: Case[];
  test: Case[];
}

/** How a question is put: with a chain of thought before the answer, or the answer at once. */
export type AnswerMode = "chain" | "direct";

/** One sequence to train on. weights[i] is the weight of the loss of predicting ids[i] from what stands before it. */
export interface Example {
  ids: Int32Array;
  weights: Float32Array;
}

/**
 * Sequences in rows of one length, and the positions that carry loss.
 *
 * B rows of T tokens, padded on the right; a row holds one sequence, or several (`packed`). M positions carry loss (padded
 * with weight 0 to a few sizes, so that shapes repeat).
 */
export interface Batch {
  rows: number; // B
  length: number; // T
  ids: Int32Array; // [B * T]
  /** Real tokens of each row. */
  lengths: Int32Array; // [B]
  /** Which hidden state predicts: b * T + t. */
  positions: Int32Array; // [M]
  targets: Int32Array; // [M]
  /** Add up to 1 over the batch, or to this batch's share when gradients are accumulated. */
  weights: Float32Array; // [M]
  /** Tokens that are not padding. */
  tokens: number;
  /** Positions whose weight is not 0. */
  trainedTokens: number;
  /** Where rows hold several sequences. */
  packed?: PackedRows;
}

/** What keeps the sequences of one row apart. Padding sees itself alone. */
export interface PackedRows {
  /** Where each token stands in its own sequence, from 0. */
  positionIds: Int32Array; // [B * T]
  /** The first token of the row that each token may see: the beginning of its sequence. */
  starts: Int32Array; // [B * T]
}
