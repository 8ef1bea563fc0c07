// A model by the name that people know it by; its id is told where that is another.

import { useMessages } from "../context.ts";
import { nameOfModel } from "../keeping.ts";
import type { ModelRecord } from "../state.ts";

interface ModelNameProps {
  /** As a recipe has it. */
  model: string;
  models: ModelRecord[];
}

export function ModelName({ model, models }: ModelNameProps) {
  const t = useMessages();
  const name = nameOfModel(model, models) ?? t.recipe.goneModel;
  return <span title={name === model ? undefined : model}>{name}</span>;
}
