// The recipe: model, data and stages, and the button that runs it.

import { type PanelProps, useFormats, useMessages } from "../context.ts";
import { advise } from "../draft.ts";
import type { Formats } from "../i18n/format.ts";
import type { Messages } from "../i18n/messages.ts";
import type { Recipe, Stage } from "../../protocol/recipe.ts";
import { type Budget, builtinRecipes } from "../../recipes/builtin.ts";
import { isAtWork } from "../state.ts";
import { Card } from "../widgets/Card.tsx";
import { CheckField, Choice, NumberField, SelectField } from "../widgets/fields.tsx";
import { StageFields } from "./StageFields.tsx";

export function RecipePanel({ state, actions }: PanelProps) {
  const t = useMessages();
  const draft = state.draft.value;
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
              disabled={atWork}
              onChange={(changed) => void actions.editStage(index, changed)}
              onInclude={(include) => void actions.includeStage(index, include)}
            />
          ))}
        </ol>
        <EvaluationFields {...fixed} />
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
  const models = [...new Set(Object.values(builtinRecipes).map((recipe) => recipe("full").model))];
  return (
    <SelectField
      label={t.recipe.model}
      value={state.draft.value.recipe.model}
      options={models.map((model) => ({ value: model, label: model }))}
      disabled={disabled}
      onChange={(model) => void actions.editRecipe({ model })}
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
  included: boolean;
  disabled: boolean;
  onChange: (stage: Stage) => void;
  onInclude: (include: boolean) => void;
}

function StageItem({ stage, included, disabled, onChange, onInclude }: StageItemProps) {
  const [t, format] = [useMessages(), useFormats()];
  const name = t.stageKinds[stage.kind];
  return (
    <li class={included ? "stage" : "stage left-out"}>
      <CheckField label="" name={t.recipe.include(name)} checked={included} disabled={disabled} onChange={onInclude} />
      <details>
        <summary>
          <span class="stage-name">{name}</span>
          <span class="quiet">{summary(stage, t, format)}</span>
        </summary>
        <p class="quiet">{t.stageWhat[stage.kind]}</p>
        <StageFields stage={stage} disabled={disabled || !included} onChange={onChange} />
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
  const advice = advise(state.draft.value);
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
      {advice && <p class="quiet">{t.recipe.advice[advice.advice]}</p>}
    </div>
  );
}
