// The name, what computes, where data are, the language.

import { type PanelProps, useFormats, useMessages, wordsOf } from "../context.ts";
import type { Language, Messages } from "../i18n/messages.ts";
import type { Engine } from "../state.ts";
import { Choice } from "../widgets/fields.tsx";
import { Logo } from "../widgets/Logo.tsx";

export function HeaderPanel({ state, actions }: PanelProps) {
  const t = useMessages();
  return (
    <header class="top">
      <div class="brand">
        <Logo />
        <div>
          <h1>{t.title}</h1>
          <p>{t.tagline}</p>
        </div>
      </div>
      <div class="top-tools">
        <EngineChip engine={state.engine.value} />
        <PrivacyChip bytes={state.storageBytes.value} />
        <Choice<Language>
          label={t.language}
          hideLabel
          value={state.language.value}
          options={[
            { value: "en", label: "English", lang: "en" },
            { value: "zh", label: "中文", lang: "zh-CN" },
          ]}
          onChange={(language) => void actions.setLanguage(language)}
        />
      </div>
    </header>
  );
}

function EngineChip({ engine }: { engine: Engine }) {
  const t = useMessages();
  return (
    <>
      <button type="button" class={`chip engine-${engine.status}`} popoverTarget="engine-details">
        <span class="dot" aria-hidden="true" />
        <span class="visually-hidden">{t.engine.title}: </span>
        <span class="chip-text">{engineName(engine, t)}</span>
      </button>
      <div id="engine-details" class="popover" popover="auto">
        <h2>{t.engine.title}</h2>
        {engine.status === "ready" || engine.status === "silent" ? (
          <dl class="facts">
            <dt>{t.engine.backend}</dt>
            <dd>{t.engine.backends[engine.choice.name]}</dd>
            <dt>{t.engine.device}</dt>
            <dd>{engine.choice.device}</dd>
            <dt>{t.engine.reason}</dt>
            <dd>{engine.choice.reason}</dd>
          </dl>
        ) : (
          <p>{engine.status === "failed" ? wordsOf(engine.trouble, t) : t.engine.starting}</p>
        )}
      </div>
    </>
  );
}

function engineName(engine: Engine, t: Messages): string {
  switch (engine.status) {
    case "starting":
      return t.engine.starting;
    case "failed":
      return t.engine.failed;
    case "ready":
    case "silent":
      return engine.choice.device;
  }
}

function PrivacyChip({ bytes }: { bytes: number | null }) {
  const [t, format] = [useMessages(), useFormats()];
  return (
    <>
      <button type="button" class="chip" popoverTarget="privacy-details">
        <svg class="lock" viewBox="0 0 16 16" aria-hidden="true">
          <path d="M5 7 V5 a3 3 0 0 1 6 0 V7" />
          <rect x="3" y="7" width="10" height="7" rx="1.5" />
        </svg>
        <span class="chip-text">{t.privacy.short}</span>
      </button>
      <div id="privacy-details" class="popover" popover="auto">
        <h2>{t.privacy.title}</h2>
        <p>{t.privacy.text}</p>
        {bytes !== null && <p class="quiet">{t.privacy.stored(format.bytes(bytes))}</p>}
      </div>
    </>
  );
}
