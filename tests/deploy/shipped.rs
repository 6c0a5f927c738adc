//! What is shipped is what is meant to be shipped.

use std::process::Command;

/// The packages that the program is built from, with these kinds of dependencies.
fn packages(edges: &str) -> String {
    let arguments = ["tree", "--locked", "--offline", "--package", "freshet", "--prefix", "none", "--edges", edges];
    let command = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = command.expect("run cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The tests have it, so that this would notice: `topics/src/failpoint.rs`.
#[test]
fn the_program_that_is_shipped_has_no_failpoints() {
    let has_failpoints = |packages: &str| packages.lines().any(|line| line.starts_with("fail v"));
    let (shipped, tested) = (packages("normal,build"), packages("normal,build,dev"));
    assert!(shipped.contains("freshet-topics v") && !has_failpoints(&shipped), "{shipped}");
    assert!(has_failpoints(&tested), "{tested}");
}
