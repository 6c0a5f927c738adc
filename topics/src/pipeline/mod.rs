//! The pipeline folder: the declarations of a team's feeds and outputs, read from files.
//!
//! Reading finds every mistake of every file at once and names each with file, line and column. The result lives as
//! long as the process, so that names can be `&'static str`.

pub mod cases;
pub mod contract;
pub mod examples;
mod folder;
pub mod mistake;
pub mod output;
pub mod pattern;
pub mod sql;
pub mod yaml;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use self::cases::OutputCase;
use self::contract::Contract;
use self::examples::Examples;
use self::folder::Folder;
use self::mistake::{Mistake, Mistakes, did_you_mean};
use self::output::Output;
use self::yaml::Document;
use crate::{Column, Domain};

/// What a pipeline folder declares.
#[derive(Debug)]
pub struct Pipeline {
    /// The name of its folder.
    pub name: &'static str,
    /// Its domains, dimensions first, then facts, each by name.
    pub domains: &'static [&'static Domain],
    /// Its outputs, by name.
    pub outputs: &'static [&'static Output],
    /// Its tests of domains: rows and their expected results.
    pub examples: &'static [Examples],
    /// Its tests of outputs.
    pub cases: &'static [OutputCase],
    /// The SHA-256 of its contracts and outputs, hexadecimal. Layout and comments of the files do not count, nor do
    /// tests and documentation.
    pub hash: &'static str,
}

static SHIPPED: LazyLock<&'static Pipeline> = LazyLock::new(|| {
    Pipeline::of(folder::SHIPPED_NAME, &Folder::shipped(), Vec::new()).expect("the shipped folder is read by the tests")
});

impl Pipeline {
    /// The shipped pipeline.
    pub fn shipped() -> &'static Pipeline {
        *SHIPPED
    }

    /// Reads a folder. It stays in memory as long as the process lives.
    ///
    /// # Errors
    /// Every mistake in its files, by file and place.
    pub fn read(folder: &Path) -> Result<&'static Pipeline, Vec<Mistake>> {
        let (files, mistakes) = Folder::read(folder);
        // `.` and `..` have no name of their own.
        let path = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = path.file_name().map_or("pipeline".into(), |name| name.to_string_lossy());
        Pipeline::of(&name, &files, mistakes)
    }

    fn of(name: &str, folder: &Folder, mut mistakes: Vec<Mistake>) -> Result<&'static Pipeline, Vec<Mistake>> {
        let mut hash = Sha256::new();
        let mut drafts: Vec<Draft> = Vec::new();
        for (file, text) in folder.of("domains") {
            drafts.push(Draft::read(file, text, &mut hash));
        }
        check_together(&mut drafts);
        let all_read = drafts.iter().all(|draft| draft.contract.is_some());
        let mut domains: Vec<&'static Domain> = Vec::new();
        for draft in drafts {
            mistakes.extend(draft.mistakes.into_sorted());
            domains.extend(draft.contract.map(|contract| &*Box::leak(Box::new(contract.domain))));
        }
        domains.sort_by_key(|domain| (domain.event_time.is_some(), domain.name));
        let domains: &'static [&'static Domain] = domains.leak();
        let mut outputs = Vec::new();
        // Mistakes in files that cannot be read come first: other checks would only report their consequences.
        for (file, text) in folder.of("outputs").filter(|_| all_read) {
            let mut found = Mistakes::of(file);
            if let Some(output) = Output::read(file, text, domains, &mut found) {
                hash.update(output.name.as_bytes());
                hash.update(output.definition.as_bytes());
                outputs.push(output);
            }
            mistakes.extend(found.into_sorted());
        }
        let (mut examples, mut cases) = (Vec::new(), Vec::new());
        for (file, text) in folder.of("tests") {
            let mut found = Mistakes::of(file);
            match OutputCase::is_one(text) {
                true => cases.extend(OutputCase::read(file, text, domains, &outputs, &mut found)),
                false => examples.extend(Examples::read(file, text, domains, &mut found)),
            }
            mistakes.extend(found.into_sorted());
        }
        if domains.is_empty() && mistakes.is_empty() {
            let mut found = Mistakes::of("domains");
            found.add(mistake::Place::START, "a pipeline has at least one contract, in a file domains/NAME.odcs.yaml");
            mistakes = found.into_sorted();
        }
        if !mistakes.is_empty() {
            mistakes.sort();
            return Err(mistakes);
        }
        Ok(Box::leak(Box::new(Pipeline {
            name: String::leak(name.to_owned()),
            domains,
            outputs: outputs.leak(),
            examples: examples.leak(),
            cases: cases.leak(),
            hash: String::leak(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
        })))
    }

    /// The domain of that name.
    pub fn domain(&self, name: &str) -> Option<&'static Domain> {
        self.domains.iter().copied().find(|domain| domain.name == name)
    }
}

/// A contract as read, before the others of its folder are known.
struct Draft {
    file: String,
    contract: Option<Contract>,
    mistakes: Mistakes,
}

impl Draft {
    fn read(file: &str, text: &str, hash: &mut Sha256) -> Draft {
        let mut mistakes = Mistakes::of(file);
        let document = Document::parse(text, 0, &mut mistakes);
        let contract = document.as_ref().and_then(|document| contract::read(document, &mut mistakes));
        if let Some(document) = document {
            hash.update(file.as_bytes());
            hash.update([0]);
            hash.update(document.canonical().as_bytes());
            hash.update([0]);
        }
        if let Some(contract) = &contract {
            let wanted = file_of(contract.domain.name);
            if file != wanted {
                mistakes.add(contract.name, format!("the domain `{}` belongs in {wanted}", contract.domain.name));
            }
        }
        Draft { file: file.to_owned(), contract, mistakes }
    }
}

/// Mistakes between contracts.
fn check_together(drafts: &mut [Draft]) {
    // The mistakes in these are already reported.
    let unread: Vec<String> =
        drafts.iter().filter(|draft| draft.contract.is_none()).map(|it| it.file.clone()).collect();
    let is_unread = |domain: &str| unread.contains(&file_of(domain));
    for at in 0..drafts.len() {
        let (earlier, rest) = drafts.split_at_mut(at);
        let Some((Draft { contract: Some(contract), mistakes, .. }, later)) = rest.split_first_mut() else { continue };
        check_names_and_patterns(contract, earlier.iter().filter_map(|draft| draft.contract.as_ref()), mistakes);
        let others: Vec<&Domain> = (earlier.iter().chain(later.iter()).filter_map(|draft| draft.contract.as_ref()))
            .map(|contract| &contract.domain)
            .collect();
        for (place, column) in &contract.scales {
            let said = check_scale(&contract.domain, column, &others, is_unread);
            said.into_iter().for_each(|said| mistakes.add(*place, said));
        }
        for (place, column) in &contract.references {
            let said = check_reference(column, &others, is_unread);
            said.into_iter().for_each(|said| mistakes.add(*place, said));
        }
    }
}

/// Mistakes in what two contracts may not share: a name, a table, and the keys of files.
fn check_names_and_patterns<'a>(
    contract: &Contract,
    earlier: impl Iterator<Item = &'a Contract>,
    mistakes: &mut Mistakes,
) {
    let domain = &contract.domain;
    for other in earlier.map(|other| &other.domain) {
        let name = other.name;
        if name == domain.name {
            mistakes.add(contract.name, format!("there is another domain `{name}`"));
        }
        if other.table == domain.table {
            mistakes.add(contract.table, format!("the table `{}` is also the table of `{name}`", domain.table));
        }
        for (pattern, place) in domain.patterns.iter().zip(&contract.patterns) {
            let clash = pattern::clash(pattern, other.patterns.iter().copied(), name);
            clash.into_iter().for_each(|said| mistakes.add(*place, said));
        }
    }
}

/// Mistakes in a reference: it must be to the whole key of another domain, and of its type.
fn check_reference(column: &Column, others: &[&Domain], is_unread: impl Fn(&str) -> bool) -> Option<String> {
    let reference = column.references.filter(|reference| !is_unread(reference.domain))?;
    let Some(to) = others.iter().find(|other| other.name == reference.domain) else {
        let hint = did_you_mean(reference.domain, others.iter().map(|other| other.name));
        return Some(format!("there is no other domain `{}`{hint}", reference.domain));
    };
    match to.column(reference.column).filter(|key| to.key == [key.name]) {
        Some(key) if key.cast == column.cast => None,
        Some(key) => {
            let (own, theirs) = (column.cast.sql_type(), key.cast.sql_type());
            Some(format!("`{}` has type {own}, but the column that it refers to has type {theirs}", column.name))
        }
        None => {
            let key = to.key.join(", ");
            Some(format!("`{}.{}` is not the key of {} ({key})", to.name, reference.column, to.name))
        }
    }
}

/// Mistakes in the column that scales a sample: it must be a number of the row, or of a row that this one refers to.
fn check_scale(
    domain: &Domain,
    column: &Column,
    others: &[&Domain],
    is_unread: impl Fn(&str) -> bool,
) -> Option<String> {
    let scale = column.sample.and_then(|sample| sample.scale)?;
    let referred = || domain.columns.iter().filter_map(|column| column.references).map(|to| to.domain);
    let candidates = || {
        let theirs = others.iter().filter(|other| referred().any(|name| name == other.name));
        domain.columns.iter().chain(theirs.flat_map(|other| other.columns))
    };
    match candidates().find(|candidate| candidate.name == scale) {
        Some(found) if found.name == column.name => Some(format!("`{scale}` cannot scale itself")),
        Some(found) if found.cast.is_number() => None,
        Some(found) => Some(format!("`{scale}` has type {}: it must be a number", found.cast.sql_type())),
        None if referred().any(is_unread) => None,
        None => {
            let hint = did_you_mean(scale, candidates().map(|candidate| candidate.name));
            Some(format!("there is no column `{scale}` in {} or a domain that it refers to{hint}", domain.name))
        }
    }
}

/// The file of a domain's contract.
fn file_of(domain: &str) -> String {
    format!("domains/{domain}.odcs.yaml")
}
