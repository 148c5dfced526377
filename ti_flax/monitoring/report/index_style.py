"""The style sheet and the script of the page of many concepts."""

STYLE = """
[hidden] { display: none !important; }
.filters { display: flex; flex-wrap: wrap; gap: 8px; margin: 1.2em 0; position: sticky; top: 0; z-index: 1;
  background: var(--paper); padding: 10px 0; }
.filters input, .filters button { font: inherit; color: inherit; background: var(--soft);
  border: 1px solid var(--line); border-radius: 6px; padding: 5px 12px; }
.filters input { flex: 1 1 200px; max-width: 340px; } .filters button { cursor: pointer; }
.filters button[aria-pressed="true"] { background: var(--c0); border-color: var(--c0); color: var(--paper); }
.concepts { list-style: none; margin: 1.2em 0; padding: 0; display: grid; gap: 16px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); }
.concept { border: 1px solid var(--line); border-left-width: 4px; border-radius: 6px; padding: 12px 16px;
  min-width: 0; overflow-wrap: anywhere; }
.concept h2 { font-size: 1.15em; margin: 0; } .concept a { color: var(--c0); }
.concept[data-look="failed"] { border-left-color: var(--flag); }
.concept[data-look="flagged"] { border-left-color: var(--c1); }
.state { color: var(--quiet); } .state.failed { color: var(--flag); } .state.done { color: var(--c2); }
.state.running { color: var(--c0); } .concept[data-look="flagged"] .flag { color: var(--c1); }
.error { white-space: pre-line; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 190px), 1fr)); gap: 10px;
  margin-top: 8px; } .pictures img { max-width: 100%; height: auto; }
.pictures figcaption { font-weight: 400; font-size: .85em; color: var(--quiet); }
"""

SCRIPT = """
(() => {
  const bar = document.querySelector(".filters"), none = document.querySelector(".none");
  const field = bar.querySelector("input"), buttons = [...bar.querySelectorAll("button")];
  const concepts = [...document.querySelectorAll(".concept")];
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";
  const show = () => {
    const words = field.value.toLowerCase().split(/\\s+/);
    const chosen = buttons.filter(pressed).map((button) => button.value);
    let shown = 0;
    for (const concept of concepts) {
      const { state, look, text } = concept.dataset;
      const fits = !chosen.length || chosen.includes(state) || chosen.includes(look);
      concept.hidden = !fits || !words.every((word) => text.toLowerCase().includes(word));
      shown += !concept.hidden;
    }
    none.hidden = shown > 0;
  };
  field.addEventListener("input", show);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(!pressed(button)));
      show();
    });
  }
  bar.hidden = false;
  show();
})();
"""
