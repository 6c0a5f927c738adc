//! The recorded pipeline and the domains' tables, as lines: what was or would be done, and what prevents it.

use freshet_sinks::output_state::DefinitionChange;
use freshet_sinks::output_views::{self, ViewChange, ViewPlan};
use freshet_sinks::tables::record::{Recording, short};
use freshet_sinks::tables::{Plan, TablePlan, What};

use super::{Finding, Standing};
use crate::commands::terminal::counted;
use crate::roles::Services;

/// The result of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was only looked at.
    DryRun,
    /// All of it was done.
    Done,
    /// Nothing was done, because a part of it is not possible.
    Blocked,
}

/// A line about the pipeline, one a table with its steps, one an output that is new, defined otherwise or gone, and one a view
/// of an output that is not as wanted.
pub(super) fn findings(services: &Services, plan: &Plan, outcome: Outcome) -> Vec<Finding> {
    let schema = plan.makes_schema.then(|| of_schema(&services.config.postgres.schema, outcome));
    let pipeline = of_pipeline(services, &plan.recording, outcome);
    let tables = plan.tables.iter().map(|table| of_table(table, outcome));
    let outputs = plan.outputs.iter().map(|change| of_output(change, outcome));
    let views = plan.views.iter().map(|view| of_view(view, outcome));
    schema.into_iter().chain([pipeline]).chain(tables).chain(outputs).chain(views).collect()
}

/// Deriving is the publisher's: setup says only what it will find.
fn of_output(change: &DefinitionChange, outcome: Outcome) -> Finding {
    let (is, will) = match change {
        DefinitionChange::Added(_) => ("is new", "all its windows will be derived"),
        DefinitionChange::Changed(_) => ("its definition has changed", "all its windows will be derived again"),
        DefinitionChange::Dropped(_) => ("no longer in the pipeline", "the next version leaves it out"),
    };
    let (standing, said) = match outcome {
        Outcome::DryRun => (Standing::Would, format!("{is}: would be set up, then {will}")),
        Outcome::Done => (Standing::Made, format!("{is}: set up; {will}")),
        Outcome::Blocked => (Standing::Failed, format!("{is}: not set up")),
    };
    Finding::new("output", change.output(), standing, said)
}

fn of_view(view: &ViewPlan, outcome: Outcome) -> Finding {
    let (will, done, not) = match &view.change {
        ViewChange::Make => ("would be created".to_owned(), "created".to_owned(), "not created"),
        ViewChange::Replace => {
            ("found, would be replaced".to_owned(), "found, and replaced".to_owned(), "not replaced")
        }
        ViewChange::Drop => {
            ("its output no longer in the pipeline: would be dropped".to_owned(), "dropped".to_owned(), "not dropped")
        }
        ViewChange::Allow(readers) => {
            let readers = readers.join(", ");
            (
                format!("found, would be readable by {readers}"),
                format!("found, now readable by {readers}"),
                "not changed",
            )
        }
    };
    let (standing, said) = match (&view.failed, outcome) {
        (Some(why), _) => (Standing::Warns, format!("{not}; its files are published anyway: {why}")),
        (None, Outcome::DryRun) => (Standing::Would, will),
        (None, Outcome::Done) => (Standing::Made, done),
        (None, Outcome::Blocked) => (Standing::Failed, not.to_owned()),
    };
    Finding::new("view", &format!("{}.{}", output_views::SCHEMA, view.output), standing, said)
}

fn of_schema(schema: &str, outcome: Outcome) -> Finding {
    let (standing, said) = match outcome {
        Outcome::DryRun => (Standing::Would, "would be created, for the tables"),
        Outcome::Done => (Standing::Made, "created, for the tables"),
        Outcome::Blocked => (Standing::Failed, "not created: something else prevents the setup of the tables"),
    };
    Finding::new("schema", schema, standing, said)
}

fn of_pipeline(services: &Services, recording: &Recording, outcome: Outcome) -> Finding {
    let hash = short(services.config.pipeline.hash);
    let since = recording.before.as_ref().map(|before| before.set_up_at.format("%Y-%m-%d %H:%M UTC").to_string());
    let (standing, said) = match (outcome, recording.changes, &since) {
        (_, false, Some(since)) => (Standing::Found, format!("found, set up on {since} ({hash})")),
        (Outcome::DryRun, _, None) => (Standing::Would, format!("would be recorded as set up ({hash})")),
        (Outcome::DryRun, _, Some(since)) => {
            (Standing::Would, format!("differs from what was set up on {since}; would be set up ({hash})"))
        }
        (Outcome::Done, _, _) => (Standing::Made, format!("set up ({hash})")),
        (Outcome::Blocked, _, _) => (Standing::Failed, format!("not set up ({hash})")),
    };
    let judged = recording.judged_otherwise.iter().map(|domain| {
        format!(
            "the rules of {domain} have changed: existing rows stay unchanged until `freshet replay {domain} --from \
             beginning` corrects them"
        )
    });
    let gone = recording
        .gone
        .iter()
        .map(|domain| format!("kept: {domain} is no longer in the pipeline; its table and its topic are not touched"));
    let blocked = recording.blocked.iter().map(|said| format!("in the way: {said}"));
    let standing = if recording.blocked.is_empty() { standing } else { Standing::Failed };
    Finding::new("pipeline", services.config.pipeline.name, standing, said).with(judged.chain(gone).chain(blocked))
}

fn of_table(table: &TablePlan, outcome: Outcome) -> Finding {
    let (standing, said) = match (outcome, table.what) {
        _ if !table.blocked.is_empty() => (Standing::Failed, "found, not changed".to_owned()),
        (Outcome::Blocked, _) if !table.steps.is_empty() => {
            (Standing::Failed, "not changed: something prevents the setup of the tables".to_owned())
        }
        (_, What::Own) if table.steps.is_empty() => (Standing::Found, "found, as declared".to_owned()),
        (Outcome::DryRun, What::Missing) => (Standing::Would, "would be created".to_owned()),
        (Outcome::DryRun, What::Own) => (Standing::Would, "found, would be changed".to_owned()),
        (Outcome::DryRun, What::Foreign { rows }) => (
            Standing::Would,
            format!("found, made by another program: would be adopted with its {}", counted(rows, "row")),
        ),
        (_, What::Missing) => (Standing::Made, "created".to_owned()),
        (_, What::Own) => (Standing::Made, "found, and changed".to_owned()),
        (_, What::Foreign { rows }) => (Standing::Made, format!("adopted with its {}", counted(rows, "row"))),
    };
    let standing = match (standing, table.not_done.is_empty()) {
        (Standing::Found | Standing::Made | Standing::Would, false) => Standing::Differs,
        (standing, _) => standing,
    };
    let steps = table.steps.iter().map(ToString::to_string);
    let kept = table.kept.iter().map(|said| format!("kept: {said}"));
    let not_done = table.not_done.iter().map(|said| format!("not done: {said}"));
    let blocked = table.blocked.iter().map(|said| format!("in the way: {said}"));
    Finding::new("table", table.table, standing, said).with(steps.chain(kept).chain(not_done).chain(blocked))
}
