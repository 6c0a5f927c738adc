//! Domains on the command line: one by its name, or `all`.

use freshet_topics::{DOMAINS, Domain, domains};

/// One domain or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domains(pub Vec<&'static Domain>);

/// Reads a domain's name.
///
/// # Errors
/// If there is none of that name.
pub fn parse_domain(name: &str) -> Result<&'static Domain, String> {
    domains::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = DOMAINS.iter().map(|domain| domain.name).collect();
        format!("no such domain; there are {}", names.join(", "))
    })
}

/// Reads a domain's name, or `all`.
///
/// # Errors
/// If there is none of that name.
pub fn parse_domains(name: &str) -> Result<Domains, String> {
    match name {
        "all" => Ok(Domains(DOMAINS.to_vec())),
        name => Ok(Domains(vec![parse_domain(name).map_err(|error| format!("{error}, and all"))?])),
    }
}
