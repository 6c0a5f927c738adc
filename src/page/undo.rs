//! How to undo a file: the steps of `docs/answers.md`, with the commands filled in for this file.
//!
//! Newer data wins, so an undo is a newer file. Which one it is depends on the versions of its key:
//!
//! | the file | newer version | older version that is applied | steps |
//! |---|---|---|---|
//! | not applied, or it changed nothing | – | – | none |
//! | applied | on its way | – | none yet |
//! | applied | applied | – | send again what it replaced; remove what is left of it |
//! | applied | no | yes | send again what it replaced; drop the older version again; remove what is left |
//! | applied | no | no: a name of its own | send again what it replaced; remove what is left |
//!
//! What it replaced is sent before the older version, whose rows win then, and before anything is removed: what is left of
//! the file includes rows that it took from others.
//!
//! With `onOverwrite: replace` nothing has to be sent or removed: a version that is overwritten leaves no rows behind, and a
//! replay brings back what it had replaced.

use std::path::Path;

use freshet_sinks::apply::removal;
use freshet_sinks::ledger::ObjectState;
use freshet_topics::{Domain, Overwrite};
use serde::Serialize;

use super::file::Version;
use crate::print::{command, quoted};

/// What there is to do.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Undo {
    /// Which case it is, or why there is nothing to do.
    case: String,
    steps: Vec<Step>,
    /// What stays as it is afterwards.
    stays: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Step {
    text: &'static str,
    /// One line or several, for a shell.
    command: String,
}

/// A file to undo.
#[derive(Debug, Clone, Copy)]
pub(super) struct Undoing<'a> {
    pub(super) id: i64,
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    pub(super) state: ObjectState,
    pub(super) version_id: Option<&'a str>,
    /// Whether a row of it was written to the table, or left it.
    pub(super) has_changes: bool,
    /// The versions of the key, the newest first.
    pub(super) versions: &'a [Version],
    /// The schema of the domains' tables.
    pub(super) schema: &'a str,
    /// What a shell sources.
    pub(super) env_file: &'a Path,
}

const TOPIC_KEEPS: &str = "The topic keeps the rows of the file: a replay of it brings removed rows back.";
const NOTHING_STAYS: &str = "The contract says onOverwrite: replace, so no row that only this file has stays.";

/// The steps for a file of a domain.
pub(super) fn undo(file: Undoing<'_>, domain: &Domain) -> Undo {
    if let Some(why) = file.nothing() {
        return Undo { case: why.to_owned(), steps: vec![], stays: "" };
    }
    if file.newer().is_some_and(|newer| newer.state != ObjectState::Applied) {
        return Undo { case: NEWER_COMES.to_owned(), steps: vec![], stays: "" };
    }
    let is_replaced = domain.on_overwrite == Overwrite::Replace;
    let case = match (file.newer(), file.older()) {
        (Some(_), _) => NEWER.to_owned(),
        (None, Some(older)) => overwrote(older),
        (None, None) => ALONE.to_owned(),
    };
    let again = file.older().filter(|_| file.newer().is_none()).map(|older| file.drop_again(older));
    let mut steps = match (is_replaced, file.newer()) {
        (false, _) => [file.send_others(), again.unwrap_or_default(), vec![file.remove(domain)]].concat(),
        (true, Some(_)) => vec![restore(domain)],
        (true, None) => [again.unwrap_or_else(|| file.empty()), vec![restore(domain)]].concat(),
    };
    if !steps.is_empty() {
        let load = format!(". {}", quoted(&file.env_file.to_string_lossy()));
        steps.insert(0, Step { text: "Load the addresses and keys into a shell:", command: load });
    }
    Undo { case, steps, stays: if is_replaced { NOTHING_STAYS } else { TOPIC_KEEPS } }
}

const NEWER: &str = "A newer version of the file has been loaded. To undo that one, open it above.";
const NEWER_COMES: &str = "A newer version of the file is on its way. Look here again once it is applied.";
const ALONE: &str = "It has a name of its own. Deleting it from the bucket changes nothing. The rows that it replaced come back when \
    the files that had them are sent again as new.";

fn overwrote(older: &Version) -> String {
    let written = older.last_modified.format("%Y-%m-%d %H:%M:%S UTC");
    format!(
        "It overwrote an older version of the same name, written {written}. Newer data wins, so that one is dropped again."
    )
}

impl Undoing<'_> {
    fn nothing(&self) -> Option<&'static str> {
        match self.state {
            ObjectState::Discovered | ObjectState::Publishing | ObjectState::Published => {
                Some("It is not applied yet. The steps appear here once it is.")
            }
            ObjectState::Rejected | ObjectState::Superseded => Some("It was not loaded, so there is nothing to undo."),
            ObjectState::Applied if !self.has_changes => {
                Some("No row of it was written to the table, so there is nothing to undo.")
            }
            ObjectState::Applied => None,
        }
    }

    /// Where this version is among those of its key; beyond the end if it is older than all that are known.
    fn place(&self) -> usize {
        self.versions.iter().position(|it| it.id == self.id).unwrap_or(self.versions.len())
    }

    fn newer(&self) -> Option<&Version> {
        let is_loaded = |it: &&Version| !matches!(it.state, ObjectState::Rejected | ObjectState::Superseded);
        self.versions[..self.place()].iter().find(is_loaded)
    }

    fn older(&self) -> Option<&Version> {
        self.versions.iter().skip(self.place() + 1).find(|it| it.state == ObjectState::Applied)
    }

    fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or(self.key)
    }

    fn address(&self) -> String {
        quoted(&format!("s3://{}/{}", self.bucket, self.key))
    }

    fn fetch(&self, version_id: &str, to: &str) -> String {
        let [bucket, key, version, to] = [self.bucket, self.key, version_id, to].map(quoted);
        format!("aws s3api get-object --bucket {bucket} --key {key} --version-id {version} {to}")
    }

    /// Drops a local file under the key, and waits for it.
    fn drop_file(&self, from: &str) -> String {
        format!("aws s3 cp {} {}\n{}", quoted(from), self.address(), command("status --wait --timeout 1h"))
    }

    fn drop_again(&self, older: &Version) -> Vec<Step> {
        let name = format!("older-{}", self.name());
        match older.version_id.as_deref().filter(|it| *it != "null") {
            Some(version) => vec![
                Step { text: "Fetch the older version, and look at it:", command: self.fetch(version, &name) },
                Step { text: "Drop it again, and wait until it is applied:", command: self.drop_file(&name) },
            ],
            None => vec![Step {
                text: "The older version has no version id: take the good file from its source. Drop it again, and wait \
                       until it is applied:",
                command: self.drop_file(&name),
            }],
        }
    }

    /// Overwrites it with its header.
    fn empty(&self) -> Vec<Step> {
        let header = format!("header-{}", self.name());
        vec![
            Step {
                text: "Cut off its header, and look at it: one line, compressed if the file is.",
                command: self.cut(&header),
            },
            Step {
                text: "Overwrite the file with its header only, and wait until that is applied:",
                command: self.drop_file(&header),
            },
        ]
    }

    /// Sends the other files again whose rows it replaced.
    fn send_others(&self) -> Vec<Step> {
        let folder = self.key.strip_suffix(self.name()).unwrap_or_default();
        let good = quoted(&format!("{folder}GOOD.csv"));
        vec![
            Step {
                text: "See which files' rows it replaced (“it replaced … of”), and which rows it added:",
                command: self.changes(),
            },
            Step {
                text: "If there are other files among them, send these again as new, and wait. Replace GOOD.csv by their \
                       names, each with its own --file; all of their rows win over rows that other files have brought \
                       since:",
                // It asks, and would take a next line for the answer.
                command: format!(
                    "{} &&\n    {}",
                    command(&format!("republish --file {good} --as-new")),
                    command("status --wait --timeout 1h")
                ),
            },
        ]
    }

    /// Writes the header of the file to a file of that name.
    fn cut(&self, header: &str) -> String {
        let from = format!("whole-{}", self.name());
        let fetched = match self.version_id.filter(|it| *it != "null") {
            Some(version) => self.fetch(version, &from),
            None => format!("aws s3 cp {} {}", self.address(), quoted(&from)),
        };
        let (from, header) = (quoted(&from), quoted(header));
        let name = self.name().to_lowercase();
        let cut = match () {
            () if name.ends_with(".gz") => format!("gzip -dc {from} | head -n 1 | gzip > {header}"),
            () if name.ends_with(".zst") => format!("zstd -dc {from} | head -n 1 | zstd > {header}"),
            () => format!("head -n 1 {from} > {header}"),
        };
        format!("{fetched}\n{cut}")
    }

    fn changes(&self) -> String {
        command(&format!("changes {} --version {} --examples 1000", quoted(self.key), self.id))
    }

    /// Removes the rows that the table still has of this version.
    fn remove(&self, domain: &Domain) -> Step {
        let [mark, delete] = removal::by_hand(domain, self.schema, self.id);
        let psql = "psql \"$DATABASE_URL\" --single-transaction --set ON_ERROR_STOP=1";
        Step {
            text: "The table still has the rows of this version that nothing has replaced: those that only it has, and \
                   those of other files that were not sent again. To remove all of them, so that the outputs follow:",
            command: format!("{psql} <<'END'\n{mark};\n{delete};\nEND"),
        }
    }
}

fn restore(domain: &Domain) -> Step {
    Step {
        text: "If it had replaced rows of other files, a replay restores them:",
        command: command(&format!("replay {} --from beginning", domain.name)),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use freshet_topics::Pipeline;

    use super::*;

    fn version(id: i64, state: ObjectState) -> Version {
        Version {
            id,
            last_modified: DateTime::UNIX_EPOCH,
            version_id: Some(format!("v{id}")),
            state,
            replaced_by: None,
        }
    }

    fn domain(on_overwrite: Overwrite) -> Domain {
        Domain { on_overwrite, ..*Pipeline::shipped().domain("health").expect("a domain") }
    }

    fn file(versions: &[Version]) -> Undoing<'_> {
        Undoing {
            id: 12,
            bucket: "raw",
            key: "health/it's.csv",
            state: ObjectState::Applied,
            version_id: Some("v12"),
            has_changes: true,
            versions,
            schema: "public",
            env_file: Path::new("/here/env"),
        }
    }

    fn commands(undo: &Undo) -> String {
        undo.steps.iter().map(|step| format!("{}\n", step.command)).collect()
    }

    #[test]
    fn each_case_has_the_steps_of_the_guide_filled_in() {
        use ObjectState::{Applied, Published, Rejected, Superseded};
        let (own, newer, older) = (version(12, Applied), version(15, Applied), version(3, Applied));
        let alone = [version(16, Superseded), version(15, Rejected), own.clone(), version(3, Rejected)];
        let merge = domain(Overwrite::Merge);
        let of = |versions: &[Version], domain: &Domain| undo(file(versions), domain);

        let undone = of(&alone, &merge);
        assert_eq!(
            commands(&undone),
            format!(
                ". /here/env\n\
                 freshet changes 'health/it'\\''s.csv' --version 12 --examples 1000\n\
                 freshet republish --file health/GOOD.csv --as-new &&\n    freshet status --wait --timeout 1h\n\
                 psql \"$DATABASE_URL\" --single-transaction --set ON_ERROR_STOP=1 <<'END'\n{};\n\
                 DELETE FROM \"health_data\" WHERE src_object = 12;\nEND\n",
                removal::by_hand(&merge, "public", 12)[0]
            )
        );
        assert!(undone.case.starts_with("It has a name of its own"), "{undone:?}");
        let said = commands(&undo(Undoing { schema: "apart", ..file(&alone) }, &merge));
        assert!(said.contains("DELETE FROM \"apart\".\"health_data\" WHERE src_object = 12;"), "{said}");

        let undone = of(&[own.clone(), older.clone()], &merge);
        assert!(undone.case.starts_with("It overwrote an older version of the same name, written 1970-01-01"));
        let said = commands(&undone);
        let again = "freshet status --wait --timeout 1h\naws s3api get-object --bucket raw --key 'health/it'\\''s.csv' --version-id v3 \
             'older-it'\\''s.csv'\naws s3 cp 'older-it'\\''s.csv' 's3://raw/health/it'\\''s.csv'\nfreshet status --wait --timeout 1h\n\
             psql ";
        assert!(said.contains(again) && said.contains("--as-new") && said.contains("DELETE"), "{said}");
        let unversioned = Version { version_id: None, ..older.clone() };
        let said = commands(&of(&[own.clone(), unversioned], &merge));
        assert!(!said.contains("get-object") && said.contains("aws s3 cp 'older-"), "{said}");

        let undone = of(&[newer.clone(), own.clone(), older.clone()], &merge);
        assert!(undone.case.starts_with("A newer version of the file has been loaded"), "{undone:?}");
        let said = commands(&undone);
        assert!(said.contains("freshet changes") && said.contains("--as-new") && said.contains("DELETE"), "{said}");
        assert!(!said.contains("aws"), "{said}");
        let comes = version(15, Published);
        let undone = of(&[comes, own.clone(), older.clone()], &merge);
        assert!(undone.case.contains("on its way") && undone.steps.is_empty(), "{undone:?}");
    }

    #[test]
    fn a_version_that_leaves_nothing_behind_is_not_removed_by_hand() {
        let (own, older) = (version(12, ObjectState::Applied), version(3, ObjectState::Applied));
        let replace = domain(Overwrite::Replace);
        let undone = undo(file(&[own.clone(), older.clone()]), &replace);
        let said = commands(&undone);
        assert!(said.contains("get-object") && said.ends_with("freshet replay health --from beginning\n"), "{said}");
        assert_eq!(undone.stays, NOTHING_STAYS);
        let newer = version(15, ObjectState::Applied);
        let said = commands(&undo(file(&[newer, own.clone()]), &replace));
        assert_eq!(said, ". /here/env\nfreshet replay health --from beginning\n");
        for (key, cut) in [
            ("health/a.csv", "head -n 1 whole-a.csv > header-a.csv\naws s3 cp header-a.csv s3://raw/health/a.csv\n"),
            ("health/a.csv.gz", "gzip -dc whole-a.csv.gz | head -n 1 | gzip > header-a.csv.gz\n"),
            ("health/a.csv.zst", "zstd -dc whole-a.csv.zst | head -n 1 | zstd > header-a.csv.zst\n"),
        ] {
            let said = commands(&undo(Undoing { key, ..file(std::slice::from_ref(&own)) }, &replace));
            assert!(said.contains("--version-id v12 whole-a.csv") && said.contains(cut), "{said}");
        }
    }

    #[test]
    fn a_file_that_changed_nothing_has_no_steps() {
        let versions = [version(12, ObjectState::Applied)];
        for state in ObjectState::ALL {
            let undone = undo(Undoing { state, ..file(&versions) }, &domain(Overwrite::Merge));
            assert_eq!(undone.steps.is_empty(), state != ObjectState::Applied, "{state}");
        }
        let undone = undo(Undoing { has_changes: false, ..file(&versions) }, &domain(Overwrite::Merge));
        assert_eq!((undone.steps.len(), undone.stays), (0, ""));
        assert!(undone.case.contains("nothing to undo"));
    }
}
