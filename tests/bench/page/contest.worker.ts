import { type ContestRequest, contest } from "./contest.ts";

addEventListener("message", ({ data }: MessageEvent<ContestRequest>) => {
  contest(data).then(
    (result) => postMessage(result),
    (error: Error) => postMessage({ failed: error.stack ?? String(error) }),
  );
});
