// What the run is to leave for the person to take away, beside the report.

import { useId } from "preact/hooks";
import { type Exports, exportsOf, type Shape, type Tool } from "../../protocol/recipe.ts";
import { type PanelProps, useMessages } from "../context.ts";
import type { Messages } from "../i18n/messages.ts";
import { storageNames } from "../keeping.ts";
import type { ExportLimits } from "../state.ts";
import { CheckField, NumberField, SelectField } from "../widgets/fields.tsx";

const DTYPES = ["f32", "f16", "bf16"] as const;
const SHAPES = ["perLayer", "padded", "uniform"] as const;
const GGUF_TYPES = ["F16", "Q8_0", "Q4_0"] as const;
/** As they call themselves. */
const TOOLS: Record<Tool, string> = { llamaFactory: "LLaMA-Factory", axolotl: "axolotl", trl: "TRL" };
const TOOL_NAMES = Object.keys(TOOLS) as Tool[];

interface ExportFieldsProps extends PanelProps {
  disabled: boolean;
}

export function ExportFields({ state, actions, disabled }: ExportFieldsProps) {
  const t = useMessages();
  const exports = exportsOf(state.draft.value.recipe);
  const limits = state.limits.value;
  const prunes = state.recipe.value.stages.some(({ kind }) => kind === "prune") || limits?.pruned === true;
  const part = { exports, limits, disabled, onChange: (change: Partial<Exports>) => void actions.editExports(change) };
  return (
    <details class="more exports">
      <summary>
        {t.exports.title} <span class="quiet">{summary(exports, prunes, t)}</span>
      </summary>
      <WeightFields {...part} />
      {prunes ? <ShapeField {...part} /> : <p class="quiet">{t.exports.notPruned}</p>}
      <GgufFields {...part} prunes={prunes} />
      <HandoverFields {...part} />
    </details>
  );
}

/** What is other than the weights themselves, at a glance. */
function summary({ dtype, shape, gguf, handover }: Exports, prunes: boolean, t: Messages): string {
  return [
    dtypeName(dtype),
    ...(prunes ? [t.exports.shapes[shape].name] : []),
    ...gguf,
    ...(handover ? [t.exports.handedOver] : []),
  ].join(" · ");
}

const dtypeName = (dtype: Exports["dtype"]): string => (dtype === "bf16" ? "bfloat16" : storageNames[dtype]);

interface PartProps {
  exports: Exports;
  limits: ExportLimits | null;
  disabled: boolean;
  onChange: (change: Partial<Exports>) => void;
}

function WeightFields({ exports, disabled, onChange }: PartProps) {
  const t = useMessages();
  return (
    <div class="fields">
      <SelectField
        label={t.exports.dtype}
        value={exports.dtype}
        options={DTYPES.map((value) => ({ value, label: t.exports.dtypes[value] }))}
        disabled={disabled}
        onChange={(dtype) => onChange({ dtype })}
      />
      <NumberField
        label={t.exports.shardMegabytes}
        value={exports.mostShardBytes / 1e6}
        least={1}
        most={1_000_000}
        whole={false}
        disabled={disabled}
        onChange={(megabytes) => onChange({ mostShardBytes: Math.round(megabytes * 1e6) })}
      />
      <CheckField
        label={t.exports.adapter}
        checked={exports.adapter}
        disabled={disabled}
        onChange={(adapter) => onChange({ adapter })}
      />
    </div>
  );
}

function ShapeField({ exports, limits, disabled, onChange }: PartProps) {
  const t = useMessages();
  return (
    <fieldset class="export-part" disabled={disabled}>
      <legend>{t.exports.shape}</legend>
      {SHAPES.map((shape) => (
        <ShapeOption
          key={shape}
          shape={shape}
          checked={exports.shape === shape}
          refused={Boolean(limits?.shapes[shape])}
          onChoose={() => onChange({ shape })}
        />
      ))}
    </fieldset>
  );
}

interface ShapeOptionProps {
  shape: Shape;
  checked: boolean;
  refused: boolean;
  onChoose: () => void;
}

function ShapeOption({ shape, checked, refused, onChoose }: ShapeOptionProps) {
  const [t, id] = [useMessages(), useId()];
  return (
    <div class={refused ? "keep-option unfit" : "keep-option"}>
      <input
        id={id}
        type="radio"
        name="shape"
        checked={checked}
        disabled={refused && !checked}
        aria-describedby={`${id}-what`}
        onChange={onChoose}
      />
      <div>
        <label for={id}>{t.exports.shapes[shape].name}</label>
        <p id={`${id}-what`} class="quiet">
          {t.exports.shapes[shape].what}
        </p>
      </div>
    </div>
  );
}

function GgufFields({ exports, limits, disabled, prunes, onChange }: PartProps & { prunes: boolean }) {
  const [t, id] = [useMessages(), useId()];
  const { gguf, shape } = exports;
  const refused = limits?.gguf ?? null;
  const set = (type: (typeof GGUF_TYPES)[number], wanted: boolean) =>
    onChange({ gguf: GGUF_TYPES.filter((one) => (one === type ? wanted : gguf.includes(one))) });
  return (
    <fieldset class="export-part" disabled={disabled}>
      <legend>{t.exports.gguf}</legend>
      {GGUF_TYPES.map((type) => (
        <CheckField
          key={type}
          label={t.exports.ggufTypes[type]}
          describedBy={refused ? id : undefined}
          checked={gguf.includes(type)}
          disabled={refused !== null && !gguf.includes(type)}
          onChange={(wanted) => set(type, wanted)}
        />
      ))}
      {refused && (
        <p class="quiet" id={id}>
          {t.exports.noGguf} <span lang="en">{refused}</span>
        </p>
      )}
      {prunes && shape === "perLayer" && !refused && <p class="quiet">{t.exports.ggufPadded}</p>}
      {gguf.length > 0 && limits?.ggufNotes.map((note) => <Note key={note} note={note} />)}
    </fieldset>
  );
}

/** A sentence of the engine, in the person's language where that is known. */
export function Note({ note }: { note: string }) {
  const t = useMessages();
  const said = t.files.note(note);
  return (
    <p class="quiet" lang={said === note ? "en" : undefined}>
      {said}
    </p>
  );
}

function HandoverFields({ exports: { handover }, disabled, onChange }: PartProps) {
  const [t, id] = [useMessages(), useId()];
  const chosen = handover?.tools ?? [];
  const set = (tool: Tool, wanted: boolean) => {
    const tools = TOOL_NAMES.filter((one) => (one === tool ? wanted : chosen.includes(one)));
    onChange({ handover: tools.length > 0 ? { tools, thenStop: handover?.thenStop ?? false } : undefined });
  };
  return (
    <fieldset class="export-part" disabled={disabled}>
      <legend>{t.exports.handover}</legend>
      <p id={id} class={handover ? "bad" : "quiet"}>
        {t.exports.handoverWarning}
      </p>
      {TOOL_NAMES.map((tool) => (
        <CheckField
          key={tool}
          label={TOOLS[tool]}
          describedBy={id}
          checked={chosen.includes(tool)}
          onChange={(wanted) => set(tool, wanted)}
        />
      ))}
      <CheckField
        label={t.exports.thenStop}
        checked={handover?.thenStop ?? false}
        disabled={!handover}
        onChange={(thenStop) => handover && onChange({ handover: { ...handover, thenStop } })}
      />
    </fieldset>
  );
}
