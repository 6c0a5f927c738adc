// The page that is drawn: a dashboard's panels, each by Grafana's component for it, with the panel's own settings.

import { EventBusSrv, ThemeContext, createTheme } from "@grafana/data";
import { GlobalStyles, PanelChrome, PanelContextProvider } from "@grafana/ui";
import { createElement as h } from "react";
import { createRoot } from "react-dom/client";

import { framesOf } from "./frames.js";
import { drawn } from "./panels.js";

/** Grafana's grid: pixels. */
const [COLUMNS, CELL, MARGIN] = [24, 30, 8];

const theme = createTheme({ colors: { mode: "light" } });
const context = { eventsScope: "dashboard", eventBus: new EventBusSrv(), canAddAnnotations: () => false };

/** Variables in a text, as the dashboard is opened with them. */
const filledIn = (variables) => (text) => String(text ?? "")
  .replace(/\$\{?(\w+)(:\w+)?\}?/g, (whole, name) => variables[name] ?? whole);

/** A panel's place: pixels. */
function place({ x, y, w, h: rows }, width) {
  const column = (width - MARGIN * (COLUMNS - 1)) / COLUMNS;
  const across = (cells) => cells * column + (cells - 1) * MARGIN;
  return { left: x * (column + MARGIN), top: y * (CELL + MARGIN), width: across(w), height: rows * CELL + (rows - 1) * MARGIN };
}

function panel(json, answered, frames, width, replace) {
  const at = place(json.gridPos, width);
  const style = { position: "absolute", ...at };
  const title = replace(json.title);
  const box = { key: json.id, style, "data-title": title };
  if (json.type === "row") {
    const color = theme.colors.text.primary;
    return h("div", { ...box, style: { ...style, color, font: `500 ${CELL / 2}px Inter`, lineHeight: `${CELL}px` } }, title);
  }
  const inner = (wide, high) => drawn(json, frames, { width: wide, height: high, theme, answered, replace });
  const chrome = h(PanelChrome, { title, description: json.description, width: at.width, height: at.height, padding: json.type === "table" ? "none" : "md" }, inner);
  return h("div", box, chrome);
}

/** Draws what a person sees who opens the dashboard; done when it is there. */
window.draw = async (answered) => {
  const { dashboard, answers, variables } = answered;
  const element = document.getElementById("dashboard");
  const width = element.parentElement.clientWidth - 2 * MARGIN;
  const replace = filledIn(variables);
  const bottom = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  Object.assign(element.style, { position: "relative", margin: `${MARGIN}px`, height: `${bottom * (CELL + MARGIN)}px` });
  document.body.style.background = theme.colors.background.canvas;
  document.body.style.margin = "0";
  await Promise.all(["400 12px Inter", "500 12px Inter"].map((font) => document.fonts.load(font)));
  const panels = [];
  for (const json of dashboard.panels) {
    const frames = json.type === "row" ? [] : await framesOf(json, answers[json.id], { theme, replace });
    panels.push(panel(json, answered, frames, width, replace));
  }
  const all = h(ThemeContext.Provider, { value: theme },
    h(PanelContextProvider, { value: context }, h(GlobalStyles, { isExtensionSidebarOpen: false }), ...panels));
  createRoot(element).render(all);
  // Charts are laid out twice: with their legend, then without what it takes.
  await new Promise((resolve) => { setTimeout(resolve, 1_500); });
};
