// The page: the recipe to the left, what comes of it to the right.

import { type PanelProps, StateProvider, useMessages } from "./context.ts";
import { ChatPanel } from "./panels/ChatPanel.tsx";
import { DataPanel } from "./panels/DataPanel.tsx";
import { FilesPanel } from "./panels/FilesPanel.tsx";
import { HeaderPanel } from "./panels/HeaderPanel.tsx";
import { IntroPanel } from "./panels/IntroPanel.tsx";
import { NoticePanel } from "./panels/NoticePanel.tsx";
import { ModelsPanel } from "./panels/ModelsPanel.tsx";
import { PlanPanel } from "./panels/PlanPanel.tsx";
import { ProgressPanel } from "./panels/ProgressPanel.tsx";
import { RecipePanel } from "./panels/RecipePanel.tsx";
import { ResultsPanel } from "./panels/ResultsPanel.tsx";
import { RunsPanel } from "./panels/RunsPanel.tsx";
import { ScoresPanel } from "./panels/ScoresPanel.tsx";

export function App({ state, actions }: PanelProps) {
  return (
    <StateProvider value={state}>
      <HeaderPanel state={state} actions={actions} />
      <main>
        <NoticePanel state={state} actions={actions} />
        <div class="columns">
          <RecipePanel state={state} actions={actions} />
          <div class="outcome">
            {state.run.value.status === "none" ? (
              <IntroPanel state={state} />
            ) : (
              <ProgressPanel state={state} actions={actions} />
            )}
            <div class="pair-cards">
              <ScoresPanel state={state} />
              <PlanPanel state={state} />
            </div>
            <ResultsPanel state={state} />
            <div class="pair-cards">
              <ChatPanel state={state} actions={actions} />
              {state.run.value.status !== "none" && <FilesPanel state={state} actions={actions} />}
            </div>
          </div>
          <div class="store">
            <DataPanel state={state} actions={actions} />
            <ModelsPanel state={state} actions={actions} />
            <RunsPanel state={state} actions={actions} />
          </div>
        </div>
      </main>
      <Footer />
    </StateProvider>
  );
}

function Footer() {
  const t = useMessages();
  return (
    <footer class="foot">
      <p>{t.privacy.text}</p>
      <p>{t.footer}</p>
    </footer>
  );
}
