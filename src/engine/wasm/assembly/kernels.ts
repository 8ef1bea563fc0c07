// The entry of the compiled module: everything that TypeScript calls.

export { gemm, gemmPacked } from "./gemm";
export { unpackRows } from "./packed";
export { abandon, bindOwn, bindThreads, ownBytes, serve, threadsBytes } from "./threads";
export { rmsNorm, rmsNormGradient, rmsNormGradientBytes } from "./norm";
export { gatedMlp, gatedMlpBytes, gatedMlpGradient, gatedMlpGradientBytes } from "./gatedMlp";
export { swiGlu, swiGluGradient } from "./swiGlu";
export { rotate } from "./rotate";
export {
  causalAttention,
  causalAttentionBytes,
  causalAttentionGradient,
  causalAttentionGradientBytes,
} from "./attention";
export {
  decodeAttention,
  decodeAttentionBytes,
  firstWrongPosition,
  latentDecode,
  latentDecodeBytes,
  storeKeys,
  storeLatents,
} from "./decode";
export { balanceExperts, expertLoads, route, routeGradient } from "./route";
export { experts, expertsBytes, expertsGradient, expertsGradientBytes } from "./experts";
export { copyRows, firstOutside, integerAt, takeRows, takeRowsGradient } from "./rows";
export { firstWrongTarget, headLoss, headLossBytes } from "./headLoss";
export { advance, sampleBytes, sampleTokens } from "./sample";
export { topLogProbabilities, topLogProbabilitiesBytes } from "./distilLoss";
export { add, addRow, columnSums, scale, scaleBy } from "./elementwise";
export { adamW, squaredSum, squaredSumBytes } from "./adamW";
