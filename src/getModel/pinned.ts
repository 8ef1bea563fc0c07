// Models that this page knows by their content: whatever the hub says, these files are these bytes or they are refused.

export interface PinnedModel {
  repository: string;
  /** A commit never changes, a branch does. */
  commit: string;
  licence: string;
  /** Of the weights, for people to choose by. */
  sizeBytes: number;
  /** SHA-256 by path. Files without one are held against what the hub lists for the commit. */
  sha256: Readonly<Record<string, string>>;
}

const QWEN_TOKENIZER = "c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539";

export const PINNED_MODELS: readonly PinnedModel[] = [
  {
    repository: "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    commit: "ad9f0ae0864d7fbcd1cd905e3c6c5b069cc8b562",
    licence: "MIT",
    sizeBytes: 3_554_214_621,
    sha256: {
      "model.safetensors": "58858233513d76b8703e72eed6ce16807b523328188e13329257fb9594462945",
      "tokenizer.json": "88145e3c3249adc2546ede277e9819d6e405e19072456e4b521cbc724bd60773",
    },
  },
  {
    repository: "Qwen/Qwen2.5-0.5B-Instruct",
    commit: "7ae557604adf67be50417f59c2c2f167def9a775",
    licence: "Apache-2.0",
    sizeBytes: 988_097_824,
    sha256: {
      "model.safetensors": "fdf756fa7fcbe7404d5c60e26bff1a0c8b8aa1f72ced49e7dd0210fe288fb7fe",
      "tokenizer.json": QWEN_TOKENIZER,
    },
  },
  {
    repository: "Qwen/Qwen2.5-0.5B",
    commit: "060db6499f32faf8b98477b0a26969ef7d8b9987",
    licence: "Apache-2.0",
    sizeBytes: 988_097_824,
    sha256: {
      "model.safetensors": "88c142557820ccad55bb59756bfcfcf891de9cc6202816bd346445188a0ed342",
      "tokenizer.json": QWEN_TOKENIZER,
    },
  },
];
