// What went wrong and belongs to no panel.

import { type PanelProps, useMessages, wordsOf } from "../context.ts";

export function NoticePanel({ state, actions }: PanelProps) {
  const t = useMessages();
  const [engine, trouble] = [state.engine.value, state.trouble.value];
  return (
    <div class="notices" role="alert">
      {engine.status === "failed" && (
        <div class="notice bad">
          <p>
            <strong>{t.engine.failed}.</strong> {wordsOf(engine.trouble, t)}
          </p>
          <button type="button" onClick={() => void actions.restartEngine()}>
            {t.engine.restart}
          </button>
        </div>
      )}
      {engine.status === "silent" && (
        <div class="notice">
          <p>
            <strong>{t.engine.silent}.</strong> {t.engine.silentText}
          </p>
          <button type="button" onClick={() => void actions.restartEngine()}>
            {t.engine.restart}
          </button>
        </div>
      )}
      {trouble && (
        <div class="notice bad">
          <p>{wordsOf(trouble, t)}</p>
          <button type="button" onClick={actions.dismissTrouble}>
            {t.close}
          </button>
        </div>
      )}
    </div>
  );
}
