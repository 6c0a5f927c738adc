// Answers of Prometheus and Postgres as Grafana's data frames, with a panel's transformations and field settings applied.

import {
  FieldType, Registry, applyFieldOverrides, standardTransformers, standardTransformersRegistry, toDataFrame,
  transformDataFrame,
} from "@grafana/data";
import { lastValueFrom } from "rxjs";

/** Those that the dashboards ask for. */
const TRANSFORMATIONS = [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer];
standardTransformersRegistry.setInit(() => TRANSFORMATIONS
  .map((transformation) => ({ id: transformation.id, name: transformation.name, transformation, editor: () => null })));

const TIME = /^\d{4}-\d\d-\d\d([T ]\d\d:\d\d|$)/;

const number = (text) => (text === undefined || text === "NaN" ? null : Number(text));

/** `{{domain}} applied` of a series' labels; without a format, the labels themselves. */
const legend = (format, labels) => (format
  ? format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? "")
  : Object.entries(labels).map(([name, value]) => `${name}="${value}"`).join(", "));

/** One frame a series: its times and its values. */
function seriesFrames(answer, target) {
  return answer.map(({ metric, value, values }) => {
    const points = values ?? [value];
    const displayNameFromDS = legend(target.legendFormat, metric);
    return toDataFrame({
      refId: target.refId,
      fields: [
        { name: "Time", type: FieldType.time, values: points.map(([seconds]) => seconds * 1_000) },
        { name: "Value", type: FieldType.number, labels: metric, config: { displayNameFromDS }, values: points.map((it) => number(it[1])) },
      ],
    });
  });
}

/** One frame with a row a series: its labels and its value. */
function tableFrame(answer, target, isAlone) {
  const labels = [...new Set(answer.flatMap(({ metric }) => Object.keys(metric)))].filter((it) => it !== "__name__").sort();
  const of = (name) => answer.map(({ metric }) => metric[name] ?? "");
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: "Time", type: FieldType.time, values: answer.map(({ value }) => value[0] * 1_000) },
      ...labels.map((name) => ({ name, type: FieldType.string, values: of(name) })),
      { name: isAlone ? "Value" : `Value #${target.refId}`, type: FieldType.number, values: answer.map(({ value }) => number(value[1])) },
    ],
  });
}

/** The rows of a query of Postgres, of the types that JSON shows. */
function rowsFrame(rows, target) {
  const columns = Object.keys(rows[0] ?? {});
  const field = (name) => {
    const values = rows.map((row) => row[name]);
    const known = values.filter((value) => value !== null);
    if (known.length > 0 && known.every((value) => typeof value === "string" && TIME.test(value))) {
      return { name, type: FieldType.time, values: values.map((value) => (value === null ? null : Date.parse(value))) };
    }
    const isNumber = known.length > 0 && known.every((value) => typeof value === "number");
    return { name, type: isNumber ? FieldType.number : FieldType.string, values };
  };
  return toDataFrame({ refId: target.refId, fields: columns.map(field) });
}

function answerFrames(answer, target, isAlone) {
  if (typeof answer === "string") return [rowsFrame(JSON.parse(answer), target)];
  return target.format === "table" ? [tableFrame(answer, target, isAlone)] : seriesFrames(answer, target);
}

/** The settings that a panel's fields have, each taken as it stands. */
function registryOf({ defaults, overrides }) {
  const custom = Object.keys(defaults.custom ?? {}).map((name) => `custom.${name}`);
  const plain = Object.keys(defaults).filter((name) => name !== "custom");
  const overridden = overrides.flatMap(({ properties }) => properties.map(({ id }) => id));
  return new Registry(() => [...new Set([...plain, ...custom, ...overridden])].map((id) => ({
    id,
    name: id,
    path: id.replace(/^custom\./, ""),
    isCustom: id.startsWith("custom."),
    process: (value) => value,
    shouldApply: () => true,
  })));
}

/** What a panel draws. */
export async function framesOf(panel, answers, { theme, replace }) {
  const asked = panel.targets.flatMap((target) => answerFrames(answers[target.refId], target, panel.targets.length === 1));
  const data = await lastValueFrom(transformDataFrame(panel.transformations ?? [], asked, { interpolate: replace }));
  return applyFieldOverrides({
    data,
    fieldConfig: panel.fieldConfig,
    fieldConfigRegistry: registryOf(panel.fieldConfig),
    replaceVariables: replace,
    theme,
    timeZone: "utc",
  });
}
