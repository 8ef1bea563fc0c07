// The peer: the same small Qwen2-shaped GPT in jax-js, its step compiled as a whole by `jit`, with Adam written in its own
// operations. Weights, batch and arithmetic are those of our contestant, so that the losses must agree.

// B batch, T tokens, D hidden size, H heads, V vocabulary.

import { type Device, defaultDevice, init, jit, nn, numpy as np, tree, valueAndGrad } from "@jax-js/jax";
import type { Qwen2Config } from "../../../src/formats/hfConfig.ts";
import type { Batch } from "../../../src/protocol/data.ts";
import { ADAM, type Trainer } from "../ours.ts";

/** A checkpoint's tensors by name, as plain numbers. */
export type PlainWeights = Map<string, { shape: number[]; values: Float32Array }>;

type Parameters = Record<string, np.Array>;

type State = {
  parameters: Parameters;
  m: Parameters;
  v: Parameters;
  step: np.Array; // [], updates done
};

type Constants = {
  ids: np.Array; // int32 [B, T]
  targets: np.Array; // int32 [B*T]
  cos: np.Array; // [T, 1, D/2H]
  sin: np.Array; // [T, 1, D/2H]
};

/** Trains on `device`; throws if jax-js has none such here. */
export async function jaxTrainer(
  device: Device,
  config: Qwen2Config,
  weights: PlainWeights,
  batch: Batch,
  learningRate: number,
): Promise<Trainer> {
  const available = await init(device);
  if (!available.includes(device))
    throw new Error(`jax-js finds no device ${device} here, only ${available.join(", ")}.`);
  defaultDevice(device);
  const constants = constantsOf(config, batch);
  let state = firstState(weights);
  const update = jit((before: State, given: Constants) => updated(before, given, config, learningRate));
  return {
    async step() {
      const [next, loss] = update(state, tree.ref(constants)) as [State, np.Array];
      state = next;
      const [value] = await loss.data();
      return value;
    },
    dispose() {
      tree.dispose(state);
      tree.dispose(constants);
      update.dispose();
    },
  };
}

function constantsOf({ headDim, ropeTheta }: Qwen2Config, { rows, length, ids, targets }: Batch): Constants {
  const half = headDim / 2;
  const angles = Array.from({ length: length * half }, (_, i) =>
    Math.fround(Math.floor(i / half) * Math.fround(ropeTheta ** (-(i % half) / half))),
  );
  return {
    ids: np.array(ids).reshape([rows, length]),
    targets: np.array(targets),
    cos: np.array(Float32Array.from(angles, Math.cos)).reshape([length, 1, half]),
    sin: np.array(Float32Array.from(angles, Math.sin)).reshape([length, 1, half]),
  };
}

/** Matrices as [in, out], which is how JAX writes a linear map; the embedding stays [V, D]. */
function firstState(weights: PlainWeights): State {
  const parameters: Parameters = {};
  for (const [name, { shape, values }] of weights) {
    const stored = np.array(values).reshape(shape);
    parameters[name] =
      shape.length === 2 && !name.includes("embed")
        ? np.array(transposed(values, shape)).reshape([shape[1], shape[0]])
        : stored;
    if (parameters[name] !== stored) stored.dispose();
  }
  const zeros = () => Object.fromEntries([...weights].map(([name]) => [name, np.zerosLike(parameters[name].ref)]));
  return { parameters, m: zeros(), v: zeros(), step: np.array(0) };
}

function transposed(values: Float32Array, [rows, columns]: number[]): Float32Array {
  return values.map((_, i) => values[(i % rows) * columns + Math.floor(i / rows)]);
}

/** One step of Adam (Kingma & Ba, 2015, algorithm 1), and the loss before it. */
function updated(
  { parameters, m, v, step }: State,
  constants: Constants,
  config: Qwen2Config,
  learningRate: number,
): [State, np.Array] {
  const { beta1, beta2, eps } = ADAM;
  const [loss, gradients] = valueAndGrad((p: Parameters) => lossOf(p, constants, config))(tree.ref(parameters));
  const t = step.add(1);
  const rest1 = np.subtract(1, np.power(beta1, t.ref));
  const rest2 = np.subtract(1, np.power(beta2, t.ref));
  const next: State = { parameters: {}, m: {}, v: {}, step: t };
  for (const [name, parameter] of Object.entries(parameters)) {
    const gradient = gradients[name] as np.Array;
    const m1 = m[name].mul(beta1).add(gradient.ref.mul(1 - beta1));
    const v1 = v[name].mul(beta2).add(np.square(gradient).mul(1 - beta2));
    const change = m1.ref.div(rest1.ref).div(np.sqrt(v1.ref.div(rest2.ref)).add(eps));
    next.m[name] = m1;
    next.v[name] = v1;
    next.parameters[name] = parameter.sub(change.mul(learningRate));
  }
  rest1.dispose();
  rest2.dispose();
  return [next, loss as np.Array];
}

/** Mean cross-entropy, nats. Rows are picked by one-hot products: `jit` of 0.1.25 refuses the gradient of a gather. */
function lossOf(p: Parameters, { ids, targets, cos, sin }: Constants, config: Qwen2Config): np.Array {
  const [B, T] = ids.shape;
  const embedding = p["model.embed_tokens.weight"];
  let x = np.matmul(nn.oneHot(ids, config.vocabSize), embedding.ref); // [B, T, D]
  for (let i = 0; i < config.numHiddenLayers; i++) x = layer(p, `model.layers.${i}`, x, cos.ref, sin.ref, config);
  tree.dispose([cos, sin]);
  const h = rmsNorm(x, p["model.norm.weight"], config.rmsNormEps).reshape([B * T, -1]);
  const logits = np.matmul(h, embedding.transpose()); // [B*T, V]
  const own = logits.ref.mul(nn.oneHot(targets, config.vocabSize)).sum(1);
  return nn.logsumexp(logits, 1).sub(own).mean();
}

/** x: [B, T, D] -> [B, T, D] */
function layer(
  p: Parameters,
  at: string,
  x: np.Array,
  cos: np.Array,
  sin: np.Array,
  { numAttentionHeads: H, headDim, rmsNormEps }: Qwen2Config,
): np.Array {
  const [B, T, D] = x.shape;
  const linear = (name: string, input: np.Array) => np.matmul(input, p[`${at}.${name}.weight`]);
  const head = (name: string, input: np.Array) =>
    linear(`self_attn.${name}`, input).add(p[`${at}.self_attn.${name}.bias`]).reshape([B, T, H, headDim]);

  const normed = rmsNorm(x.ref, p[`${at}.input_layernorm.weight`], rmsNormEps);
  const q = rotate(head("q_proj", normed.ref), cos.ref, sin.ref);
  const k = rotate(head("k_proj", normed.ref), cos, sin);
  const v = head("v_proj", normed);
  const attended = nn.dotProductAttention(q, k, v, { isCausal: true }).reshape([B, T, D]);
  const middle = x.add(linear("self_attn.o_proj", attended));

  const again = rmsNorm(middle.ref, p[`${at}.post_attention_layernorm.weight`], rmsNormEps);
  const gated = nn.silu(linear("mlp.gate_proj", again.ref)).mul(linear("mlp.up_proj", again));
  return middle.add(linear("mlp.down_proj", gated));
}

/** x: [..., D], weight: [D] */
function rmsNorm(x: np.Array, weight: np.Array, eps: number): np.Array {
  const mean = np.square(x.ref).mean(-1, { keepdims: true });
  return x.div(np.sqrt(mean.add(eps))).mul(weight);
}

/** x: [B, T, H, P]; the pair of entry i is (i, i + P/2). */
function rotate(x: np.Array, cos: np.Array, sin: np.Array): np.Array {
  const [a, b] = np.split(x, 2, -1);
  return np.concatenate([a.ref.mul(cos.ref).sub(b.ref.mul(sin.ref)), a.mul(sin).add(b.mul(cos))], -1);
}
