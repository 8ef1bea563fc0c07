// The settings of one stage.

import { useMessages } from "../context.ts";
import type { SftStage, Stage } from "../../protocol/recipe.ts";
import { CheckField, NumberField, SelectField } from "../widgets/fields.tsx";

interface StageFieldsProps<S extends Stage = Stage> {
  stage: S;
  /** The model's weights cannot be changed: adapters alone can be trained. */
  frozen: boolean;
  disabled: boolean;
  onChange: (stage: Stage) => void;
}

export function StageFields({ stage, frozen, disabled, onChange }: StageFieldsProps) {
  const t = useMessages();
  switch (stage.kind) {
    case "score":
      return (
        <div class="fields">
          <SelectField
            label={t.stage.method}
            value={stage.method}
            options={[
              { value: "gateFisher", label: t.stage.gateFisher },
              { value: "meanGradient", label: t.stage.meanGradient },
            ]}
            disabled={disabled}
            onChange={(method) => onChange({ ...stage, method })}
          />
          <NumberField
            label={t.stage.cases}
            value={stage.cases}
            least={1}
            most={10_000}
            disabled={disabled}
            onChange={(cases) => onChange({ ...stage, cases })}
          />
        </div>
      );
    case "prune":
      return (
        <div class="fields">
          <NumberField
            label={t.stage.remove}
            value={Math.round(stage.removeParameters * 1000) / 10}
            least={0}
            most={95}
            whole={false}
            disabled={disabled}
            onChange={(percent) => onChange({ ...stage, removeParameters: percent / 100 })}
          />
        </div>
      );
    case "recover":
      return (
        <>
          <div class="fields">
            <TrainingFields stage={stage} disabled={disabled} onChange={onChange} />
          </div>
          <MemoryFields stage={stage} disabled={disabled} onChange={onChange} />
        </>
      );
    case "chains":
      return (
        <>
          <div class="fields">
            <TrainingFields stage={stage} disabled={disabled} onChange={onChange} />
            <LoraFields stage={stage} disabled={disabled} onChange={onChange} />
            <CheckField
              label={t.stage.control}
              checked={stage.control}
              disabled={disabled}
              onChange={(control) => onChange({ ...stage, control })}
            />
          </div>
          <MemoryFields stage={stage} disabled={disabled} onChange={onChange} />
        </>
      );
    case "sft":
      return (
        <>
          <div class="fields">
            <SelectField
              label={t.stage.tuning}
              value={stage.method}
              options={[
                { value: "lora", label: t.stage.lora },
                { value: "unfreeze", label: t.stage.unfreeze, disabled: frozen },
              ]}
              disabled={disabled}
              onChange={(method) => onChange(withMethod(stage, method))}
            />
            <TrainingFields stage={stage} disabled={disabled} onChange={onChange} />
            {stage.method === "lora" && <LoraFields stage={stage} disabled={disabled} onChange={onChange} />}
          </div>
          <MemoryFields stage={stage} disabled={disabled} onChange={onChange} />
        </>
      );
  }
}

function withMethod(
  { steps, batch, learningRate, atATime, recompute, packing, mtpWeight }: SftStage,
  method: SftStage["method"],
): SftStage {
  const training = { kind: "sft", steps, batch, learningRate, atATime, recompute, packing, mtpWeight } as const;
  return method === "lora" ? { ...training, method, rank: 16, alpha: 32 } : { ...training, method };
}

type TrainingStage = Extract<Stage, { steps: number }>;

function TrainingFields({ stage, disabled, onChange }: Omit<StageFieldsProps<TrainingStage>, "frozen">) {
  const t = useMessages();
  return (
    <>
      <NumberField
        label={t.stage.steps}
        value={stage.steps}
        least={1}
        most={1_000_000}
        disabled={disabled}
        onChange={(steps) => onChange({ ...stage, steps })}
      />
      <NumberField
        label={t.stage.batch}
        value={stage.batch}
        least={1}
        most={1024}
        disabled={disabled}
        onChange={(batch) => onChange({ ...stage, batch })}
      />
      <NumberField
        label={t.stage.learningRate}
        value={stage.learningRate}
        least={1e-7}
        most={1}
        whole={false}
        disabled={disabled}
        onChange={(learningRate) => onChange({ ...stage, learningRate })}
      />
    </>
  );
}

/** What makes a step take less memory or time and leaves its result alone. */
function MemoryFields({ stage, disabled, onChange }: Omit<StageFieldsProps<TrainingStage>, "frozen">) {
  const t = useMessages();
  return (
    <details class="more">
      <summary>{t.stage.memory}</summary>
      <div class="fields">
        <NumberField
          label={t.stage.atATime}
          value={Math.min(stage.atATime ?? stage.batch, stage.batch)}
          least={1}
          most={stage.batch}
          disabled={disabled}
          onChange={(atATime) => onChange({ ...stage, atATime: atATime < stage.batch ? atATime : undefined })}
        />
        <CheckField
          label={t.stage.recompute}
          checked={stage.recompute ?? false}
          disabled={disabled}
          onChange={(recompute) => onChange({ ...stage, recompute: recompute || undefined })}
        />
        <CheckField
          label={t.stage.packing}
          checked={stage.packing ?? false}
          disabled={disabled}
          onChange={(packing) => onChange({ ...stage, packing: packing || undefined })}
        />
      </div>
    </details>
  );
}

type LoraStage = Extract<Stage, { rank: number }>;

function LoraFields({ stage, disabled, onChange }: Omit<StageFieldsProps<LoraStage>, "frozen">) {
  const t = useMessages();
  return (
    <>
      <NumberField
        label={t.stage.rank}
        value={stage.rank}
        least={1}
        most={256}
        disabled={disabled}
        onChange={(rank) => onChange({ ...stage, rank })}
      />
      <NumberField
        label={t.stage.alpha}
        value={stage.alpha}
        least={0.1}
        most={1024}
        whole={false}
        disabled={disabled}
        onChange={(alpha) => onChange({ ...stage, alpha })}
      />
    </>
  );
}
