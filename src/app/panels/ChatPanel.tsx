// Ask the base model or the tuned one; the chain of thought stands apart from the answer.

import { useId } from "preact/hooks";
import { type PanelProps, useFormats, useMessages, wordsOf } from "../context.ts";
import type { AnswerMode } from "../../protocol/data.ts";
import { isModelGone, nameOfModel } from "../keeping.ts";
import { type Answer, isAtWork, type Question } from "../state.ts";
import { Card } from "../widgets/Card.tsx";
import { Choice } from "../widgets/fields.tsx";

export function ChatPanel({ state, actions }: PanelProps) {
  const [t, id] = [useMessages(), useId()];
  const [question, answer] = [state.question.value, state.answer.value];
  const training = isAtWork(state.run.value.status);
  const thinking = answer.status === "thinking";
  const { recipe } = state.draft.value;
  const asksBase = question.whom === "base" || state.run.value.status !== "finished";
  const gone = asksBase && isModelGone(recipe, state.models.value);
  const canAsk = state.engine.value.status === "ready" && !training && !gone && question.text.trim() !== "";
  const runName = state.view.value?.recipe.name ?? "";
  const baseName = nameOfModel(recipe.model, state.models.value) ?? recipe.model;
  return (
    <Card title={t.chat.title} lead={training ? t.chat.busy : t.chat.lead} class="chat">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void actions.ask();
        }}
      >
        <div class="chat-choices">
          <Choice<Question["whom"]>
            label={t.chat.whom}
            value={question.whom}
            options={[
              { value: "base", label: t.chat.base },
              { value: "tuned", label: t.chat.tuned, disabled: state.run.value.status !== "finished" },
            ]}
            onChange={actions.setWhom}
          />
          <Choice<AnswerMode>
            label={t.chat.mode}
            value={question.mode}
            options={[
              { value: "chain", label: t.modes.chain },
              { value: "direct", label: t.modes.direct },
            ]}
            onChange={actions.setMode}
          />
        </div>
        <p class="quiet asked" title={asksBase && baseName !== recipe.model ? recipe.model : undefined}>
          {gone ? t.recipe.advice.modelGone : asksBase ? t.chat.askedBase(baseName) : t.chat.askedTuned(runName)}
        </p>
        <label for={id}>{t.chat.question}</label>
        <textarea
          id={id}
          rows={7}
          placeholder={t.chat.placeholder}
          value={question.text}
          onInput={(event) => actions.setQuestion({ text: event.currentTarget.value })}
        />
        <div class="buttons">
          {thinking ? (
            <button type="button" onClick={() => void actions.stopAnswer()}>
              {t.chat.stop}
            </button>
          ) : (
            <button type="submit" class="primary" disabled={!canAsk}>
              {t.chat.ask}
            </button>
          )}
          <button type="button" disabled={thinking} onClick={() => void actions.drawCase()}>
            {t.chat.draw}
          </button>
        </div>
      </form>
      <Reply answer={answer} />
    </Card>
  );
}

function Reply({ answer }: { answer: Answer }) {
  const [t, format] = [useMessages(), useFormats()];
  switch (answer.status) {
    case "none":
      return null;
    case "failed":
      return (
        <div class="reply">
          <p class="bad" role="alert">
            {wordsOf(answer.trouble, t)}
          </p>
        </div>
      );
    case "thinking":
      return (
        <div class="reply">
          <p role="status">{t.chat.thinking}</p>
          {answer.mode === "chain" && <Chain text={answer.part.chain} open />}
          {answer.part.answer && <p class="answer">{answer.part.answer}</p>}
        </div>
      );
    case "answered": {
      const { reply, mode, graded } = answer;
      return (
        <div class="reply">
          {mode === "chain" && <Chain text={reply.chain} open={reply.answer === ""} />}
          <h3>{t.chat.answer}</h3>
          <p class="answer" role="status">
            {reply.answer || t.chat.noAnswer}
            {graded && (
              <span class={graded.right ? "verdict right" : "verdict wrong"}>
                {graded.right ? t.chat.right : t.chat.wrong}
              </span>
            )}
          </p>
          {graded && !graded.right && (
            <p>
              <span class="quiet">{t.chat.expected}: </span>
              {graded.expected}
            </p>
          )}
          <p class="quiet">
            {t.chat.stats(format.whole(reply.tokens), format.decimal(reply.seconds, 1))} ·{" "}
            {t.chat.size(format.short(reply.size.total))} · {t.chat.notMedical}
          </p>
        </div>
      );
    }
  }
}

function Chain({ text, open }: { text: string; open: boolean }) {
  const t = useMessages();
  return (
    <details class="chain" open={open}>
      <summary>{t.chat.chain}</summary>
      <p class="chain-text">{text}</p>
    </details>
  );
}
