// Chinese.

import type { Messages } from "./en.ts";

export const zh: Messages = {
  title: "获取模型",
  tagline: "从模型库到你的文件夹，逐个校验。此页面看不到你的任何数据。",
  language: "语言",
  back: "前往主页面",

  apart: {
    title: "为什么单独一个页面",
    text: "主页面能看到私密数据，因此不允许与任何人通信。此页面可以连接 huggingface.co 以及 hf.co 下存放文件的主机，但不读取主页面保存的任何内容。两者之间只有你在这里保存、在那里选择的文件夹。",
    told: "与任何下载一样，模型库会知道你的网络地址以及你下载了什么。",
  },

  choose: {
    title: "选择",
    known: "此页面已知其校验和的模型",
    about: (size, licence) => `${size} · 许可证 ${licence}`,
    other: "其他模型",
    otherLabel: "所有者/名称@版本",
    otherHint: "请自行阅读其许可证。Espalier 可运行 Qwen2 以及 DeepSeek-V2、V3 架构。",
    list: "列出文件",
    listing: "正在询问模型库 …",
    oneAtATime: "这里一次只保留一个模型：下载另一个模型会删除它。",
  },

  files: {
    title: "文件",
    commit: (repository, commit) => `${repository}，提交 ${commit}`,
    include: (path) => `下载 ${path}`,
    file: "文件",
    size: "大小",
    checksum: "校验依据",
    state: "状态",
    phases: {
      reading: "正在读取已有部分",
      fetching: "正在下载",
      waiting: "待续",
      whole: "完整且已校验",
    },
    part: (share) => `已有 ${share}`,
    none: "请至少选择一个文件。",
    total: (have, total) => `${have} / ${total}`,
    progress: "全部文件",
    fetch: (size) => `下载 ${size}`,
    pause: "暂停",
    pausing: "正在暂停 …",
    goOn: "继续",
    remove: "删除已下载的内容",
    status: {
      listed: "可以开始下载",
      fetching: "正在下载",
      pausing: "正在暂停",
      paused: "已暂停",
      whole: "完整且已校验",
    },
    resumes: "可以暂停；重新加载页面或连接中断后会接着下载。",
  },

  take: {
    title: "取走",
    lead: "把文件保存到一个文件夹，然后在主页面选择该文件夹。主页面不会自行读取这里的任何内容。",
    folder: "保存文件夹",
    all: "保存全部文件",
    save: (path) => `保存 ${path}`,
    saveOne: "保存",
    saving: (path) => `正在保存 ${path} …`,
    saved: (folder) => `已保存到 ${folder}。这里的内容现在可以删除。`,
  },

  checksum({ algorithm, saidBy }) {
    if (saidBy === "page") return "SHA-256，此页面已知";
    return algorithm === "sha256" ? "SHA-256，由模型库告知" : "Git 的 SHA-1，由模型库告知";
  },

  trouble(met, bytes) {
    switch (met.kind) {
      case "notARepository":
        return `“${met.text}”不是模型库中的仓库名。请写成 owner/name 或 owner/name@revision。`;
      case "unreachable":
        return `无法连接模型库获取 ${met.what}，或连接反复中断。已下载的部分会保留：请检查网络后继续。`;
      case "notFound":
        return `模型库没有 ${met.what}，或只对登录者可见。请检查名称和版本。`;
      case "gated":
        return `${met.what} 的所有者要求先登录并同意条款，此页面做不到。请用模型库自己的工具下载。`;
      case "status":
        return `模型库对 ${met.what} 的回答是状态码 ${met.status}。请稍后再试。`;
      case "notUnderstood":
        return `模型库关于 ${met.what} 的回答不符合其接口约定，因此没有下载任何内容。`;
      case "nothingToFetch":
        return `${met.repository} 中没有 .safetensors 或 .gguf 文件，而 Espalier 不读取其他格式的权重。请选择另一个仓库。`;
      case "notAsPinned":
        return `模型库给出的 ${met.path} 的校验和（${met.found}）与此页面已知的（${met.wanted}）不同，因此没有下载任何内容。`;
      case "wrongSize":
        return `${met.path} 应为 ${bytes(met.wantedBytes)}，实际不是，已删除。请重新下载。`;
      case "wrongChecksum":
        return `${met.path} 内容不对：校验和为 ${met.found}，应为 ${met.wanted}。已删除，请重新下载。`;
      case "noRoom":
        return `需要 ${bytes(met.neededBytes)}，浏览器只有 ${bytes(met.freeBytes)} 的空间。请释放磁盘空间，或在主页面删除旧的运行。`;
      case "storage":
        return met.message;
    }
  },
  workerEnded: "此页面的工作线程已结束。已下载的内容会保留：请重新加载页面后继续。",
};
