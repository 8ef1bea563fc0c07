// `npm start`: serve the built page and print its address.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { endWith, readArguments, UsageError, wholeNumber } from "./arguments.ts";
import { GET_MODEL_FOLDER } from "./headers.ts";
import { serveFolder } from "./staticServer.ts";

const HELP = `Serve Espalier's page.

  npm start -- [--port N] [--host ADDRESS] [--hospital]

  --port N         port to listen on (8080); if it is taken, the next free one
  --host ADDRESS   address to listen on (127.0.0.1: this machine only); 0.0.0.0 lets others in
  --hospital       without the page that fetches models from a hub
  --help           this text
`;

const options = {
  port: { type: "string", default: "8080" },
  host: { type: "string", default: "127.0.0.1" },
  hospital: { type: "boolean", default: false }, // Heeded where the page is built.
  dist: { type: "string", default: "dist" }, // Given by the npm script.
  help: { type: "boolean", short: "h", default: false },
} as const;

await endWith(async () => {
  const { values } = readArguments({ options, args: process.argv.slice(2) });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const port = wholeNumber("port", values.port, 0, 65_535);
  if (!existsSync(join(values.dist, "index.html"))) {
    throw new UsageError(`There is no built page in ${values.dist}. Run: npm run build`);
  }
  const { url } = await serveFolder(values.dist, { port, host: values.host });
  process.stdout.write(`Espalier is at ${url}  (Ctrl-C ends it)\n`);
  if (existsSync(join(values.dist, GET_MODEL_FOLDER, "index.html"))) {
    process.stdout.write(`Models from a hub: ${url}${GET_MODEL_FOLDER}/\n`);
  }
  if (!["127.0.0.1", "::1", "localhost"].includes(values.host)) {
    process.stdout.write(
      "Other machines need https: over plain http their browsers give a page neither GPU nor storage. " +
        "Put a web server with https before this one; it must pass the headers on.\n",
    );
  }
  return 0;
});
