// The version that reports and exported files name.

import { version } from "../../package.json";

export const ESPALIER_VERSION: string = version;
