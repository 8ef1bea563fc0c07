// The one place that takes TensorFlow.js in: its core, with gradients and chained methods registered.
// (The package's parts by name: the umbrella import is three times as large.)

import "@tensorflow/tfjs-core/dist/register_all_gradients";
import "@tensorflow/tfjs-core/dist/public/chained_ops/register_all_chained_ops";

export * from "@tensorflow/tfjs-core";
