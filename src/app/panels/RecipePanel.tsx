// The recipe: model, data and stages, and the button that runs it.

import { useId } from "preact/hooks";
import { type PanelProps, useFormats, useMessages } from "../context.ts";
import { isBarred, isFrozen } from "../draft.ts";
import type { Formats } from "../i18n/format.ts";
import type { Messages } from "../i18n/messages.ts";
import type { Recipe, Stage } from "../../protocol/recipe.ts";
import { type Budget, builtinRecipes } from "../../recipes/builtin.ts";
import { isLocalModel } from "../../storage/models.ts";
import { isModelGone, isWhole, storageNames } from "../keeping.ts";
import { isAtWork } from "../state.ts";
import { Card } from "../widgets/Card.tsx";
import { CheckField, Choice, NumberField, SelectField } from "../widgets/fields.tsx";
import { shippedModels } from "./ModelsPanel.tsx";
import { ExportFields } from "./ExportFields.tsx";
import { StageFields } from "./StageFields.tsx";

export function RecipePanel({ state, actions }: PanelProps) {
  const [t, id] = [useMessages(), useId()];
  const draft = state.draft.value;
  const { storage = "f32" } = draft.recipe;
  const frozen = isFrozen(draft.recipe);
  const atWork = isAtWork(state.run.value.status);
  const fixed = { state, actions, disabled: atWork };
  return (
    <Card title={t.recipe.title} lead={t.recipe.lead} class="recipe">
      <form onSubmit={(event) => event.preventDefault()}>
        <Choice<Budget>
          label={t.recipe.budget}
          value={budgetOf(draft.recipe)}
          options={[
            { value: "full", label: t.recipe.full },
            { value: "quick", label: t.recipe.quick },
          ]}
          disabled={atWork}
          onChange={(budget) => void actions.setBudget(budget)}
        />
        <ModelField {...fixed} />
        <DataFields {...fixed} />
        <h3>{t.recipe.stages}</h3>
        <ol class="stages">
          {draft.recipe.stages.map((stage, index) => (
            <StageItem
              key={index}
              stage={stage}
              included={!draft.skipped.includes(index)}
              frozen={frozen}
              barredBy={isBarred(draft.recipe, stage) ? `${id}-frozen` : undefined}
              disabled={atWork}
              onChange={(changed) => void actions.editStage(index, changed)}
              onInclude={(include) => void actions.includeStage(index, include)}
            />
          ))}
        </ol>
        {frozen && (
          <p class="quiet" id={`${id}-frozen`}>
            {t.recipe.frozen(storageNames[storage])}
          </p>
        )}
        <EvaluationFields {...fixed} />
        <ExportFields {...fixed} />
        <RunButton state={state} actions={actions} />
      </form>
    </Card>
  );
}

interface FixedProps extends PanelProps {
  disabled: boolean;
}

/** Which of the built-in sizes the recipe still is; null once it was changed. */
function budgetOf(recipe: Recipe): Budget | null {
  const same = (budget: Budget) => {
    const { stages, evaluation } = builtinRecipes.hospital(budget);
    return JSON.stringify([stages, evaluation]) === JSON.stringify([recipe.stages, recipe.evaluation]);
  };
  return (["full", "quick"] as const).find(same) ?? null;
}

function ModelField({ state, actions, disabled }: FixedProps) {
  const t = useMessages();
  const { recipe } = state.draft.value;
  const kept = state.models.value.filter(isWhole).map(({ id, name, storage }) => ({
    value: id,
    label: t.recipe.kept(name, storageNames[storage]),
  }));
  const gone = isModelGone(recipe, state.models.value) ? [{ value: recipe.model, label: t.recipe.goneModel }] : [];
  return (
    <SelectField
      label={t.recipe.model}
      title={isLocalModel(recipe.model) ? recipe.model : undefined}
      value={recipe.model}
      options={[...shippedModels.map((model) => ({ value: model, label: model })), ...kept, ...gone]}
      disabled={disabled}
      onChange={(model) => void actions.chooseModel(model)}
    />
  );
}

function DataFields({ state, actions, disabled }: FixedProps) {
  const [t, format] = [useMessages(), useFormats()];
  const { study } = state.draft.value.recipe;
  const imported = state.datasets.value.map(({ id, name, cases }) => ({
    value: id,
    label: t.recipe.imported(name, format.whole(cases)),
  }));
  const set = (change: Partial<typeof study>) =>
    void actions.editRecipe({ study: { ...study, ...change } as typeof study });
  return (
    <>
      <SelectField
        label={t.recipe.data}
        value={study.kind === "imported" ? study.datasetId : ""}
        options={[{ value: "", label: t.recipe.hospital }, ...imported]}
        disabled={disabled}
        onChange={(id) => void actions.chooseData(id === "" ? null : id)}
      />
      {study.kind === "hospital" && <p class="quiet">{t.recipe.hospitalNote}</p>}
      <details class="more">
        <summary>{t.recipe.dataSettings}</summary>
        {study.kind === "hospital" ? (
          <div class="fields">
            <NumberField
              label={t.recipe.trainCases}
              value={study.train}
              least={1}
              most={100_000}
              disabled={disabled}
              onChange={(train) => set({ train })}
            />
            <NumberField
              label={t.recipe.validationCases}
              value={study.validation}
              least={1}
              most={10_000}
              disabled={disabled}
              onChange={(validation) => set({ validation })}
            />
            <NumberField
              label={t.recipe.testCases}
              value={study.test}
              least={1}
              most={10_000}
              disabled={disabled}
              onChange={(test) => set({ test })}
            />
            <NumberField
              label={t.recipe.seed}
              value={study.seed}
              least={0}
              most={2 ** 31 - 1}
              disabled={disabled}
              onChange={(seed) => set({ seed })}
            />
          </div>
        ) : (
          <div class="fields">
            <NumberField
              label={t.recipe.validationShare}
              value={study.validation}
              least={0.01}
              most={0.45}
              whole={false}
              disabled={disabled}
              onChange={(validation) => set({ validation })}
            />
            <NumberField
              label={t.recipe.testShare}
              value={study.test}
              least={0.01}
              most={0.45}
              whole={false}
              disabled={disabled}
              onChange={(test) => set({ test })}
            />
          </div>
        )}
      </details>
    </>
  );
}

interface StageItemProps {
  stage: Stage;
  /** By the person. */
  included: boolean;
  frozen: boolean;
  /** Id of what says why the stage cannot be run at all, if so. */
  barredBy: string | undefined;
  disabled: boolean;
  onChange: (stage: Stage) => void;
  onInclude: (include: boolean) => void;
}

function StageItem({ stage, included, frozen, barredBy, disabled, onChange, onInclude }: StageItemProps) {
  const [t, format] = [useMessages(), useFormats()];
  const name = t.stageKinds[stage.kind];
  const runs = included && !barredBy;
  // Fine-tuning by LoRA instead would run.
  const editable = runs || (included && stage.kind === "sft");
  return (
    <li class={runs ? "stage" : "stage left-out"}>
      <CheckField
        label=""
        name={t.recipe.include(name)}
        describedBy={barredBy}
        checked={runs}
        disabled={disabled || barredBy !== undefined}
        onChange={onInclude}
      />
      <details>
        <summary>
          <span class="stage-name">{name}</span>
          <span class="quiet">{barredBy ? t.recipe.needsFloat : summary(stage, t, format)}</span>
        </summary>
        <p class="quiet">{t.stageWhat[stage.kind]}</p>
        <StageFields stage={stage} frozen={frozen} disabled={disabled || !editable} onChange={onChange} />
      </details>
    </li>
  );
}

function summary(stage: Stage, t: Messages, format: Formats): string {
  switch (stage.kind) {
    case "score":
      return t.stage.summary.score(format.whole(stage.cases));
    case "prune":
      return t.stage.summary.prune(format.percent(stage.removeParameters));
    case "recover":
    case "chains":
    case "sft":
      return t.stage.summary.training(format.whole(stage.steps));
  }
}

function EvaluationFields({ state, actions, disabled }: FixedProps) {
  const t = useMessages();
  const { evaluation, checkpointEvery, seed } = state.draft.value.recipe;
  const set = (change: Partial<typeof evaluation>) =>
    void actions.editRecipe({ evaluation: { ...evaluation, ...change } });
  return (
    <details class="more">
      <summary>{t.recipe.evaluation}</summary>
      <div class="fields">
        <NumberField
          label={t.recipe.evaluationCases}
          value={evaluation.cases}
          least={1}
          most={10_000}
          disabled={disabled}
          onChange={(cases) => set({ cases })}
        />
        <NumberField
          label={t.recipe.maxNewTokens}
          value={evaluation.maxNewTokens}
          least={1}
          most={4096}
          disabled={disabled}
          onChange={(maxNewTokens) => set({ maxNewTokens })}
        />
        <NumberField
          label={t.recipe.evaluationBatch}
          value={evaluation.batch}
          least={1}
          most={512}
          disabled={disabled}
          onChange={(batch) => set({ batch })}
        />
        <NumberField
          label={t.recipe.checkpointEvery}
          value={checkpointEvery}
          least={1}
          most={100_000}
          disabled={disabled}
          onChange={(every) => void actions.editRecipe({ checkpointEvery: every })}
        />
        <NumberField
          label={t.recipe.seed}
          value={seed}
          least={0}
          most={2 ** 31 - 1}
          disabled={disabled}
          onChange={(value) => void actions.editRecipe({ seed: value })}
        />
      </div>
    </details>
  );
}

/** The one button: it runs what stands above it, or stops what is running. */
function RunButton({ state, actions }: PanelProps) {
  const t = useMessages();
  const advice = state.advice.value;
  const run = state.run.value;
  const ready = state.engine.value.status === "ready" && state.answer.value.status !== "thinking";
  return (
    <div class="run">
      {isAtWork(run.status) ? (
        <button
          type="button"
          class="primary stop"
          disabled={run.status === "stopping"}
          onClick={() => void actions.stopRun()}
        >
          {run.status === "stopping" ? t.recipe.stopping : t.recipe.stop}
        </button>
      ) : (
        <button
          type="button"
          class="primary"
          disabled={!ready || advice?.canRun === false}
          onClick={() => void actions.startRun()}
        >
          {state.engine.value.status === "starting" ? t.recipe.waiting : t.recipe.run}
        </button>
      )}
      {advice && (
        <p class="quiet" role="status">
          {t.recipe.advice[advice.advice]} {advice.because && <span lang="en">{advice.because}</span>}
        </p>
      )}
    </div>
  );
}
