// The entry of the compiled module: everything that TypeScript calls.

export { bindGemm, gemm, gemmBytes } from "./gemm";
export { rmsNorm, rmsNormGradient } from "./norm";
export { swiGlu, swiGluGradient } from "./swiGlu";
export { rotate } from "./rotate";
export {
  causalAttention,
  causalAttentionBytes,
  causalAttentionGradient,
  causalAttentionGradientBytes,
  decodeAttention,
} from "./attention";
export { route, routeGradient } from "./route";
export { experts, expertsBytes, expertsGradient, expertsGradientBytes } from "./experts";
export { copyRows, storeRows, takeRows, takeRowsGradient } from "./rows";
export {
  firstWrongTarget,
  headLoss,
  headLossAndGradient,
  headLossBytes,
  headLossGradient,
  headLossWidestRow,
} from "./headLoss";
export { add, addRow, columnSums, scale } from "./elementwise";
export { adamW, squaredSum } from "./adamW";
