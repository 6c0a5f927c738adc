// What a dashboard file must be: the types that Grafana publishes, put together strictly. Every panel has to be of a kind
// named here, with that kind's options and no others; a misspelt key or value does not compile.
import type * as grafana from "@grafana/schema";
import type * as Stat from "@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen.d.ts";
import type * as Table from "@grafana/schema/dist/types/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen.d.ts";
import type * as TimeSeries from "@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen.d.ts";

/** T as it stands in JSON: an enum by its values. */
type Json<T> = T extends string
  ? `${T}`
  : T extends number
    ? number extends T
      ? number
      : `${T}` extends `${infer N extends number}`
        ? N
        : never
    : T extends (infer Item)[]
      ? Json<Item>[]
      : T extends object
        ? { [Key in keyof T]: Json<T[Key]> }
        : T;

/** Optional in the schema; here each panel says it. */
type Said = "id" | "title" | "description" | "gridPos" | "datasource";
type Link = { title: string; url: string; targetBlank?: boolean };
type Fields<Custom> = Omit<grafana.FieldConfig, "custom" | "links"> & { unit: string; custom?: Custom; links?: Link[] };
// Grafana fills in what is left out of the options.
type PanelOf<Type extends string, Options, Custom> = Required<Pick<grafana.Panel, Said>> &
  Omit<grafana.Panel, Said | "type" | "options" | "fieldConfig" | "targets" | "links"> & {
    type: Type;
    links?: Link[];
    targets: (PrometheusQuery | PostgresQuery)[];
    options: Partial<Options>;
    fieldConfig: Omit<grafana.FieldConfigSource, "defaults"> & { defaults: Fields<Custom> };
  };

// Queries are of the data sources' plugins, whose types are not in the package.
type Query<Type extends string> = Required<Pick<grafana.DataQuery, "refId">> & { datasource: { type: Type; uid: string } };
type PrometheusQuery = Query<"prometheus"> & {
  expr: string;
  legendFormat?: string;
  format?: "table";
  instant?: true;
  range?: true;
};
type PostgresQuery = Query<"grafana-postgresql-datasource"> & {
  rawSql: string;
  rawQuery: true;
  editorMode: "code";
  format: "table" | "time_series";
};

// Of these a panel sets some; the schema would have them all.
type Cells = Partial<Table.FieldConfig>;
type Panel =
  | PanelOf<"stat", Stat.Options, Record<string, never>>
  | PanelOf<"table", Table.Options, Cells>
  | PanelOf<"timeseries", TimeSeries.Options, TimeSeries.FieldConfig>
  | (Omit<grafana.RowPanel, "panels"> & { title: string; panels: Panel[] });

// A mark on the time axis; what a source is asked is of its plugin too.
type Annotation = Required<Pick<grafana.AnnotationQuery, "name" | "enable" | "iconColor" | "datasource">> &
  ({ target: PostgresQuery } | { expr: string; step: string; titleFormat: string; textFormat: string; tagKeys: string });

export type Dashboard = Json<
  Omit<grafana.Dashboard, "panels" | "annotations"> & { annotations: { list: Annotation[] } } & Required<Pick<grafana.Dashboard, "uid" | "title" | "description">> & { panels: Panel[] }
>;
