//! The shipped contracts keep to the Open Data Contract Standard, as another reader of it judges.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compose::{FRESHET, ROOT};
use crate::parts::home;

/// Whether the Data Contract CLI finds a contract faultless, and what it says. It needs no network for that.
fn lint(contract: &Path) -> (bool, String) {
    let setup = fs::read_to_string(Path::new(ROOT).join("scripts/setup")).expect("read scripts/setup");
    let version = setup.lines().find_map(|line| line.strip_prefix("datacontract_version=")).expect("its version");
    let program = home().join(format!("datacontract-cli-{version}/bin/datacontract"));
    let output = Command::new(&program)
        .arg("lint")
        .arg(contract)
        .output()
        .unwrap_or_else(|error| panic!("run {}: {error} (scripts/setup tests installs it)", program.display()));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success() && said.contains("Data contract is valid") && !said.contains("warning"), said)
}

#[test]
fn the_shipped_contracts_keep_to_the_standard() {
    let shipped = fs::read_dir(Path::new(ROOT).join("pipelines/climate_health/domains")).expect("the shipped folder");
    let mut contracts: Vec<PathBuf> = shipped.flatten().map(|entry| entry.path()).collect();
    assert!(contracts.len() >= 4, "{contracts:?}");
    // And one that is drafted from a sample.
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("water.csv"), "Station ID,Day,pH \"now\",Safe\n7,2025-03-01,6.5,yes\n")
        .expect("write");
    let mut init = Command::new(FRESHET);
    init.args(["init", "drafted", "--from", "water.csv"]).current_dir(folder.path());
    assert!(init.output().expect("run freshet").status.success());
    contracts.push(folder.path().join("drafted/domains/water.odcs.yaml"));
    // And the one of the page that describes them, which says more than they do.
    let page = fs::read_to_string(Path::new(ROOT).join("docs/contracts.md")).expect("read the page");
    let whole =
        page.split_once("\n```yaml contract\n").and_then(|(_, rest)| rest.split_once("\n```")).expect("a contract").0;
    let of_page = folder.path().join("page.odcs.yaml");
    fs::write(&of_page, whole).expect("write");
    contracts.push(of_page.clone());
    for contract in &contracts {
        let (valid, said) = lint(contract);
        assert!(valid, "{}: {said}", contract.display());
    }
    // The judge is one.
    fs::write(&of_page, whole.replacen("logicalType: integer", "logicalType: int", 1)).expect("write");
    let (valid, said) = lint(&of_page);
    assert!(!valid, "{said}");
}
