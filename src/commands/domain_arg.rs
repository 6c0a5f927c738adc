//! Domains on the command line: one by its name, or `all`. Help and completions list the names.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use freshet_topics::Domain;

use crate::pipeline::chosen;

/// One domain or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domains(pub Vec<&'static Domain>);

const ALL: &str = "all";

/// Takes the name of a domain.
pub fn parse_domain() -> impl TypedValueParser<Value = &'static Domain> {
    PossibleValuesParser::new(names()).try_map(|name| chosen().domain(&name).ok_or("no such domain"))
}

/// Takes the name of a domain, or `all`.
pub fn parse_domains() -> impl TypedValueParser<Value = Domains> {
    PossibleValuesParser::new(names().chain([ALL])).try_map(|name| match name.as_str() {
        ALL => Ok(Domains(chosen().domains.to_vec())),
        name => chosen().domain(name).map(|domain| Domains(vec![domain])).ok_or("no such domain"),
    })
}

fn names() -> impl Iterator<Item = &'static str> {
    chosen().domains.iter().map(|domain| domain.name)
}
