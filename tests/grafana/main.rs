//! The dashboards, alerts and runbook in `grafana/`, `pipelines/*/boards/` and `docs/runbook.md` hold: the files are what Grafana takes, what
//! they name exists, every alert fires where it should, and every query returns data beside a running pipeline.

mod alerts;
mod dashboards;
mod files;
mod live;
mod packages;
mod pictures;
mod pipeline;
mod prometheus;
mod running;
mod schema;
mod variables;
