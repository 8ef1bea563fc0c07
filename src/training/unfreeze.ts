// Gradual unfreezing (Howard & Ruder, 2018, section 3.3): the last layer first, then downwards.

/** How many layers, from the last, are trained at this step: one at first, all by two thirds of the steps. */
export function unfrozenLayers(step: number, steps: number, layers: number): number {
  const done = step / Math.max(1, (2 * steps) / 3);
  return Math.min(layers, 1 + Math.floor(done * layers));
}

/** Whether a parameter is trained when `count` of `layers` layers are unfrozen. The embedding comes with the first layer. */
export function isUnfrozen(name: string, count: number, layers: number): boolean {
  const layer = /^model\.layers\.(\d+)\./.exec(name);
  if (layer) return Number(layer[1]) >= layers - count;
  return name === "model.norm.weight" || name === "lm_head.weight" || count === layers;
}
