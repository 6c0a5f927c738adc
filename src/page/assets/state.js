// What freshet has told, and what the person chose. src/page/read.rs says what the sections hold.

export const state = {
  about: null, status: null, files: [], freshness: {}, losses: null, quality: null, tables: {}, outputs: null, charts: null,
  history: null, away: [], trouble: [], when: null,
};

/** The page draws itself anew when one of these is changed: see page.js. */
export const chosen = { filter: "all", domain: "", search: "", more: false, charts: {} };

export const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** States of a file that is on its way. */
export const OPEN = ["discovered", "publishing", "published"];

/** Files in one of these states, over all domains; in any without. */
export const filesIn = (states) => sum(state.status.domains.flatMap(({ files }) =>
  (states ? states.map((name) => files[name]) : Object.values(files))));
