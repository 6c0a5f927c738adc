//! What freshet is for is in a pipeline's folder: nothing else that is shipped knows the words of the first one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::compose::ROOT;

/// Words of the shipped pipeline that mean nothing anywhere else.
const WORDS: [&str; 2] = ["climate", "hospital"];
/// Whoever uses the shipped folder names it.
const FOLDER: &str = "climate_health";
/// For people, and the folders themselves.
const MAY: [&str; 5] = ["pipelines/", "tests/", "docs/", "README.md", "CHANGELOG.md"];
/// Tracked files, and new ones that are not ignored.
fn files() -> Vec<String> {
    let mut git = Command::new("git");
    git.args(["-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let names = String::from_utf8(git.output().expect("run git").stdout).expect("names in UTF-8");
    names.split_terminator('\0').map(str::to_owned).filter(|name| Path::new(ROOT).join(name).is_file()).collect()
}

/// The text without what is compiled for tests only: items, or a file of that name.
fn without_tests(name: &str, text: &str) -> String {
    if name.ends_with("/tests.rs") || name.contains("/tests/") {
        return String::new();
    }
    let mut lines = text.lines();
    let mut kept = Vec::new();
    while let Some(line) = lines.next() {
        match line {
            // An item ends in the first column.
            "#[cfg(test)]" => {
                _ = lines.find(|line| line.starts_with('}') || line.starts_with("mod ") && line.ends_with(';'))
            }
            line => kept.push(line),
        }
    }
    kept.join("\n")
}

fn knows(name: &str, text: &str) -> bool {
    let said = format!("{name}\n{}", without_tests(name, text)).to_lowercase().replace(FOLDER, "");
    WORDS.iter().any(|word| said.contains(word))
}

#[test]
fn nothing_but_the_pipelines_folder_knows_what_it_is_about() {
    let shipped = files().into_iter().filter(|name| !MAY.iter().any(|place| name.starts_with(place)));
    let read = |name: &String| fs::read(Path::new(ROOT).join(name)).expect("read a file");
    // A picture says no words.
    let text = |name: &String| String::from_utf8(read(name)).unwrap_or_default();
    let found: BTreeSet<String> = shipped.filter(|name| knows(name, &text(name))).collect();
    assert!(found.is_empty(), "these know {WORDS:?}: take it from the pipeline instead: {found:#?}");
}

#[test]
fn a_word_is_found_wherever_it_stands_but_in_tests() {
    for (name, text, expected) in [
        ("src/a.rs", "let table = \"climate_data\";\n", true),
        ("src/a.rs", "struct HospitalRow;\n\n#[cfg(test)]\nmod tests {\n}\n", true),
        ("src/a.rs", "struct Row;\n\n#[cfg(test)]\nmod tests {\n    // climate\n}\n", false),
        ("src/a.rs", "#[cfg(test)]\nmod tests;\n\nstruct Climate;\n", true),
        ("src/a.rs", "#[cfg(test)]\nfn example() {\n    \"climate\"\n}\n\nstruct Row;\n", false),
        ("src/a/tests.rs", "// climate\n", false),
        ("src/climate.rs", "", true),
        ("docker-compose.yml", "volumes: [./pipelines/climate_health:/pipeline]\n", false),
        ("docker-compose.yml", "command: [process, climate]\n", true),
    ] {
        assert_eq!(knows(name, text), expected, "{name}: {text}");
    }
}
