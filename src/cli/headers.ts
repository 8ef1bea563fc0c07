// The headers that keep the page to itself. They go on every response: one worker script without them could talk to anyone.

/** `connect`: whom a page's scripts may talk to. */
const contentSecurityPolicy = (connect: string): string =>
  [
    "default-src 'none'",
    "script-src 'self' 'wasm-unsafe-eval'",
    "style-src 'self'",
    "img-src 'self' blob: data:",
    "font-src 'self'",
    `connect-src ${connect}`,
    "worker-src 'self'",
    "manifest-src 'self'",
    "frame-src 'none'",
    "object-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types app-worker",
  ].join("; ");

/** What every response carries, whatever it is. */
export const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  "Content-Security-Policy": contentSecurityPolicy("'self'"),
  // What a CSP leaves open (navigation, new windows, WebRTC), Chromium 152 and later close with this one.
  "Connection-Allowlist": "(response-origin)",
  // The three below also make the page cross-origin isolated.
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Permissions-Policy": "camera=(), microphone=(), geolocation=(), usb=(), serial=(), hid=()",
};

/** Where the page that fetches models lies, below the other one. */
export const GET_MODEL_FOLDER = "get-model";

/** The hub, and where it sends those who want a file. It keeps moving those among the hosts under this name. */
const HUB = ["https://huggingface.co", "https://*.hf.co"];

/** What that page and its worker carry instead. */
export const GET_MODEL_HEADERS: Readonly<Record<string, string>> = {
  ...SECURITY_HEADERS,
  "Content-Security-Policy": contentSecurityPolicy(HUB.join(" ")),
  // Redirects are refused unless allowed, and then go unchecked here; where those of a request lead, the policy above says.
  "Connection-Allowlist": `(response-origin ${HUB.map((host) => `"${host}"`).join(" ")});redirects=allow`,
  // Neither page can open the other one and reach into it, though both have one origin.
  "Cross-Origin-Opener-Policy": "noopener-allow-popups",
};
