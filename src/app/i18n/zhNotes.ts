// What is to be known of a run's files is entered in English by the engine; the same sentences in Chinese.

const SENTENCES: [english: RegExp, chinese: string][] = [
  [
    /^Layers keep the sizes that pruning left them/,
    "各层保留剪枝后各自的尺寸（config.json 中的 espalier_layers），只有 Espalier 能加载。",
  ],
  [/^Pruning left every layer the same sizes/, "剪枝后各层尺寸相同：模型到处都能加载，体积和速度都是剪枝后的。"],
  [
    /^What pruning removed is written as zeros/,
    "剪掉的部分写成零：模型到处都能加载，计算结果相同，但在那里与剪枝前一样大、一样慢。",
  ],
  [
    /^The base is as it was computed with, rounded to (\w+)/,
    "基础模型按计算时的形式写出，已舍入为 $1，与它原来的文件不同。",
  ],
  [/^The weights are rounded to (\w+)/, "权重已舍入为 $1；所列结果来自舍入之前的模型。"],
  [/^it holds the training data as text/, "其中包含文本形式的训练数据。请像对待数据一样对待它。"],
  [
    /^Without q_lora_rank and with (\d+) layers/,
    "没有 q_lora_rank 且有 $1 层：此文件需要 llama.cpp v0.5.0 或更新的版本。",
  ],
  [
    /^llama\.cpp uses rms_norm_eps (\S+) in the norms/,
    "llama.cpp 在注意力内部的归一化中也使用 rms_norm_eps $1，而那里应为 1e-6：结果略有不同。",
  ],
  [/^The multi-token prediction layers were left out/, "未写入多词元预测层：llama.cpp 生成时不使用它们。"],
  [
    /^There is no Modelfile\./,
    "没有 Modelfile：对话模板既不是 DeepSeek 的，也不是 ChatML。请自行编写其中的 TEMPLATE。",
  ],
  [
    /^(\d+) tensors are F16 because .* the first (\S+) with rows of (\d+)\.$/,
    "$1 个张量以 F16 写出，因为它们的行不是 32 的整数倍；第一个是 $2，每行 $3 个。",
  ],
];

/** The sentence in Chinese; as it is where it is not known. */
export function noteInChinese(note: string): string {
  const known = SENTENCES.find(([english]) => english.test(note));
  if (!known) return note;
  const [english, chinese] = known;
  const words = english.exec(note) ?? [];
  return chinese.replace(/\$(\d)/g, (_, index: string) => words[Number(index)]);
}
