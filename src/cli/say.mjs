// Words for the person who waits. stdout belongs to results.

/** @param {string} sentence */
export function say(sentence) {
  process.stderr.write(`${sentence}\n`);
}
