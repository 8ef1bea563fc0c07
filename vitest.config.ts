import { playwright } from "@vitest/browser-playwright";
import { configDefaults, defineConfig } from "vitest/config";
import { dependencies } from "./package.json";
import { chromiumArguments, findChromium } from "./src/cli/chromium.mjs";
import { bundledTensorFlow } from "./tests/tensorflow.ts";

const browserOnly = "tests/browser/**/*.test.{ts,tsx}";
const builtPage = "tests/browser/journey/**/*.test.ts";

const chromium = playwright({
  launchOptions: { executablePath: findChromium() ?? undefined, args: chromiumArguments },
});

export default defineConfig({
  test: {
    // What TensorFlow.js says in Node: that another package would be faster.
    onConsoleLog: (log) => !log.includes("looks like you are running TensorFlow.js in Node.js"),
    projects: [
      {
        extends: "./vite.config.ts",
        resolve: { alias: await bundledTensorFlow("node") },
        test: {
          name: "node",
          include: ["tests/**/*.test.{ts,tsx}"],
          exclude: [...configDefaults.exclude, browserOnly],
          benchmark: { include: ["tests/bench/**/*.bench.ts"] },
          server: { deps: { external: [/\.cache\/tensorflow/] } },
          testTimeout: 60_000,
        },
      },
      {
        extends: "./vite.config.ts",
        resolve: { alias: await bundledTensorFlow("browser") },
        optimizeDeps: {
          // All of them, because one that is found late reloads the page under the tests.
          include: [
            ...Object.keys(dependencies).filter((name) => !name.startsWith("@tensorflow/")),
            "preact/hooks",
            "preact/jsx-dev-runtime",
            "preact/jsx-runtime",
          ],
        },
        test: {
          name: "browser",
          include: [browserOnly],
          exclude: [...configDefaults.exclude, builtPage],
          testTimeout: 60_000,
          fileParallelism: false, // One Chromium on two cores.
          browser: {
            enabled: true,
            headless: true,
            screenshotFailures: false,
            provider: chromium,
            instances: [{ browser: "chromium" }],
          },
        },
      },
      {
        extends: "./vite.config.ts",
        test: {
          name: "page",
          include: [builtPage],
          testTimeout: 300_000,
          hookTimeout: 120_000,
          fileParallelism: false,
        },
      },
    ],
  },
});
