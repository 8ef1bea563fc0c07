// What this engine makes of a model, beside what a reference implementation made of it.

import { valueAndGradients } from "../engine/gradients.ts";
import * as tf from "../engine/tf.ts";
import { hiddenStates, languageModelLoss, logits, type Model } from "../models/decoder.ts";
import { generate } from "../models/generate.ts";
import { disposeModel, namedWeights, type NamedTensor } from "../models/weights.ts";
import { attachAdapter, loraTensors, mergeLora } from "../training/lora.ts";
import { batchLoss, lossInput } from "../training/loss.ts";
import { createOptimizer, disposeOptimizer } from "../training/optimizer.ts";
import { createStepper } from "../training/step.ts";
import type { Inputs, LoraReference, Reference } from "./reference.ts";

/**
 * The largest error that is allowed: of logits and losses the difference, of gradients the difference over the whole (L2), of
 * trained weights the difference over the largest, of choices how many are others. Logits may differ by as much as those of
 * the reference implementations among themselves do (tests/fixtures/README.md).
 */
export const TOLERANCES = {
  logits: 2e-5,
  loss: 1e-5,
  gradients: 1e-5,
  routing: 0,
  continuation: 0,
  "LoRA losses": 1e-5,
  "LoRA gradients": 1e-5,
  "LoRA weights": 1e-5,
  "LoRA logits": 2e-5,
};

export type Quantity = keyof typeof TOLERANCES;

interface Found {
  error: number;
  /** What it was found in. */
  where: string;
}

/** The largest error of one kind. */
export interface Measure extends Found {
  quantity: Quantity;
}

export function isWithin({ quantity, error }: Measure): boolean {
  return error <= TOLERANCES[quantity]; // Not for NaN.
}

/** Every quantity that the reference has numbers of, computed on the active backend. */
export async function compareWithReference(reference: Reference): Promise<Measure[]> {
  // Small tensors would be computed on the processor and hide the GPU's faults.
  if (tf.getBackend() === "webgpu") tf.env().set("WEBGPU_CPU_FORWARD", false);
  const model = reference.load();
  try {
    const found = [...(await compareForward(model, reference)), await compareLoss(model, reference)];
    if (reference.gradientNorms) found.push(await compareGradients(model, reference, reference.gradientNorms));
    if (reference.greedy) found.push(await compareContinuation(model, reference.greedy));
    if (reference.lora) found.push(...(await compareLora(model, reference.lora, reference.inputs)));
    return found;
  } finally {
    disposeModel(model);
  }
}

async function compareForward(model: Model, { inputs, tensors, routing }: Reference): Promise<Measure[]> {
  const chosen = new Map<number, number[][]>();
  const found = await logitsOf(model, inputs, (layer, experts) => chosen.set(layer, experts));
  const want = rowsOf(tensorOf(tensors, "logits"), inputs.real, model);
  const measures: Measure[] = [{ quantity: "logits", error: largestDifference(found, want), where: "" }];
  if (!routing) return measures;
  const wrong = [...routing].flatMap(([layer, experts]) =>
    inputs.real.flatMap((place) =>
      String(chosen.get(layer)?.[place]) === String(experts[place]) ? [] : [`layer ${layer}, token ${place}`],
    ),
  );
  return [...measures, { quantity: "routing", error: wrong.length, where: wrong[0] ?? "" }];
}

/** Logits of the real tokens: [N, V]; and each expert layer's choices for all tokens, ascending. */
async function logitsOf(
  model: Model,
  { ids, real }: Inputs,
  onChosen?: (layer: number, experts: number[][]) => void,
): Promise<Float32Array> {
  const routes: [number, tf.Tensor][] = [];
  const all = tf.tidy(() => {
    const onRoute = (layer: number, chosen: tf.Tensor) => void routes.push([layer, tf.keep(chosen.clone())]);
    const h = hiddenStates(model, { ids: tf.tensor2d(ids, undefined, "int32") }, { onRoute });
    return logits(model, h.reshape([-1, h.shape[2]!]));
  });
  for (const [layer, route] of routes) {
    const experts = (await route.array()) as number[][];
    onChosen?.(
      layer,
      experts.map((some) => some.toSorted((a, b) => a - b)),
    );
    route.dispose();
  }
  return rowsOf(await read(all), real, model);
}

function rowsOf(values: Float32Array, rows: number[], { config: { vocabSize: V } }: Model): Float32Array {
  const taken = new Float32Array(rows.length * V);
  rows.forEach((row, i) => taken.set(values.subarray(row * V, (row + 1) * V), i * V));
  return taken;
}

async function compareLoss(model: Model, { inputs, loss }: Reference): Promise<Measure> {
  return { quantity: "loss", error: Math.abs((await batchLoss(model, inputs.batch)) - loss), where: "" };
}

async function compareGradients(
  model: Model,
  { inputs, tensors }: Reference,
  norms: Map<string, number>,
): Promise<Measure> {
  const weights = namedWeights(model).filter(({ name }) => !name.endsWith("e_score_correction_bias"));
  const found = new Map<string, Float32Array>();
  for (const [name, tensor] of await gradientsOf(model, inputs, weights)) {
    for (const [own, part] of unstacked(name, tensor, model)) found.set(own, await read(part));
  }
  return { quantity: "gradients", ...gradientError(found, tensors, norms) };
}

async function gradientsOf(model: Model, { batch }: Inputs, leaves: NamedTensor[]): Promise<Map<string, tf.Tensor>> {
  const input = lossInput(batch);
  const { value, gradients } = valueAndGradients(
    () => languageModelLoss(model, input),
    leaves.map(({ tensor }) => tensor),
  );
  tf.dispose([value, input as unknown as tf.TensorContainer]);
  return new Map(leaves.map(({ name }, i) => [name, gradients[i]]));
}

/** Gradients of stacked experts under the checkpoint's names. Disposes of the whole. */
function unstacked(name: string, gradient: tf.Tensor, model: Model): [string, tf.Tensor][] {
  const [, at, layer, projection] = /^(model\.layers\.(\d+)\.mlp\.experts)\.(\w+)\.weight$/.exec(name) ?? [];
  if (!at) return [[name, gradient]];
  const { mlp } = model.layers[Number(layer)];
  if (mlp.kind !== "experts") throw new Error(`${name} is not of an expert layer`);
  const widths = mlp.experts.offsets.slice(1).map((to, e) => to - mlp.experts.offsets[e]);
  const parts = tf.split(gradient, widths, projection === "down_proj" ? 1 : 0);
  gradient.dispose();
  return parts.map((part, e) => [`${at}.${e}.${projection}.weight`, part]);
}

/** The worst of all norms and, where the reference has them, of whole gradients. */
function gradientError(
  found: Map<string, Float32Array>,
  tensors: Map<string, Float32Array>,
  norms: Map<string, number>,
): Found {
  const errors = [...norms].flatMap(([name, norm]): Found[] => {
    const [own, whole] = [found.get(name), tensors.get(`grad.${name}`)];
    if (!own) return [{ error: Number.NaN, where: name }];
    const differences = [Math.abs(norm2(own) - norm)];
    if (whole) differences.push(norm2(own.map((value, i) => value - whole[i])));
    return differences.map((difference) => ({ error: difference === 0 ? 0 : difference / norm, where: name }));
  });
  return worstOf(errors);
}

async function compareContinuation(
  model: Model,
  { prompt, continuation }: NonNullable<Reference["greedy"]>,
): Promise<Measure> {
  const options = { maxNewTokens: continuation.length, eosTokenId: -1 };
  const prompts = [prompt, prompt.slice(0, -3)]; // A second row of another length must not disturb the first.
  const [reply] = await generate(
    model,
    prompts.map((ids) => Int32Array.from(ids)),
    options,
  );
  const wrong = continuation.flatMap((token, i) => (reply[i] === token ? [] : [`token ${i}`]));
  return { quantity: "continuation", error: wrong.length, where: wrong[0] ?? "" };
}

/** Train the adapter as the reference did, then merge it. The base is changed. */
async function compareLora(model: Model, lora: LoraReference, inputs: Inputs): Promise<Measure[]> {
  attachAdapter(model, lora.adapter);
  const parameters = loraTensors(model);
  const logitErrors = [await loraLogits(model, lora, inputs, "logits_initial", "attached")];
  const gradients = new Map<string, Float32Array>();
  for (const [name, gradient] of await gradientsOf(model, inputs, parameters)) {
    gradients.set(`${PREFIX}${name}`, await read(gradient));
  }
  const { losses, weights } = await trajectory(model, parameters, lora, inputs);
  logitErrors.push(await loraLogits(model, lora, inputs, "logits_final", "trained"));
  mergeLora(model);
  logitErrors.push(await loraLogits(model, lora, inputs, "logits_final", "merged"));
  return [
    { quantity: "LoRA losses", ...worstOf(losses) },
    { quantity: "LoRA gradients", ...gradientError(gradients, lora.tensors, lora.gradientNorms) },
    { quantity: "LoRA weights", ...worstOf(weights) },
    { quantity: "LoRA logits", ...worstOf(logitErrors) },
  ];
}

/** Errors of the losses before each step and after the last, and of the weights after the first step and the last. */
async function trajectory(
  model: Model,
  parameters: NamedTensor[],
  lora: LoraReference,
  { batch }: Inputs,
): Promise<{ losses: Found[]; weights: Found[] }> {
  const optimizer = createOptimizer(parameters, lora.optimizer);
  const stepper = createStepper(model, optimizer);
  const [losses, weights]: Found[][] = [[], []];
  try {
    for (const [step, want] of lora.losses.slice(0, -1).entries()) {
      const { loss } = await stepper.step([batch], { learningRate: lora.learningRate });
      losses.push({ error: Math.abs(loss - want), where: `before step ${step + 1}` });
      if (step === 0) weights.push(...(await loraWeights(parameters, lora, "after_step_1")));
    }
    weights.push(...(await loraWeights(parameters, lora, "final")));
    const last = await batchLoss(model, batch);
    losses.push({ error: Math.abs(last - lora.losses.at(-1)!), where: "after the last step" });
    return { losses, weights };
  } finally {
    stepper.dispose();
    disposeOptimizer(optimizer);
  }
}

const PREFIX = "base_model.model.";

async function loraLogits(
  model: Model,
  { tensors }: LoraReference,
  inputs: Inputs,
  name: string,
  where: string,
): Promise<Found> {
  const want = rowsOf(tensorOf(tensors, name), inputs.real, model);
  return { error: largestDifference(await logitsOf(model, inputs), want), where };
}

async function loraWeights(parameters: NamedTensor[], { tensors }: LoraReference, when: string): Promise<Found[]> {
  const errors: Found[] = [];
  for (const { name, tensor } of parameters) {
    const want = tensorOf(tensors, `${when}.${PREFIX}${name}`);
    const found = (await tensor.data()) as Float32Array;
    errors.push({ error: largestDifference(found, want) / largest(want), where: `${when} ${name}` });
  }
  return errors;
}

function tensorOf(tensors: Map<string, Float32Array>, name: string): Float32Array {
  const found = tensors.get(name);
  if (!found) throw new Error(`The reference has no tensor ${name} in its expected.safetensors. Make it again.`);
  return found;
}

/** The largest; not a number, if one is none. */
function worstOf(all: Found[]): Found {
  return all.reduce((worst, one) => (isWorse(one.error, worst.error) ? one : worst), { error: 0, where: "" });
}

const isWorse = (error: number, worst: number): boolean => !(error <= worst) && !Number.isNaN(worst);

function largestDifference(found: Float32Array, want: Float32Array): number {
  return found.length === want.length ? largest(want.map((value, i) => value - found[i])) : Number.NaN;
}

function largest(values: Float32Array): number {
  return values.reduce((most, value) => (isWorse(Math.abs(value), most) ? Math.abs(value) : most), 0);
}

function norm2(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

async function read(tensor: tf.Tensor): Promise<Float32Array> {
  const values = (await tensor.data()) as Float32Array;
  tensor.dispose();
  return values;
}
