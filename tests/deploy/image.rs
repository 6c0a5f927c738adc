//! The steps of the Dockerfile, without Docker: what it copies is enough to build, with its own command, and what the
//! second stage installs is enough to run.
//!
//! The build lies in the target folder, and uses the dependencies that are there already: only freshet's own five
//! packages are compiled again, and only when they have changed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use crate::compose::{FRESHET, ROOT};

/// The packages of the workspace.
const PACKAGES: [&str; 5] = ["freshet", "freshet-ingest", "freshet-processors", "freshet-sinks", "freshet-topics"];
/// What `debian:bookworm-slim` has that matters here; the packages that these need come with them.
const BASE: [&str; 3] = ["libc6", "libgcc-s1", "passwd"];

/// An instruction of the Dockerfile, on one line.
#[derive(Debug, PartialEq, Eq)]
struct Instruction {
    name: String,
    rest: String,
}

/// The stages, each beginning with its FROM.
fn stages() -> Vec<Vec<Instruction>> {
    let text = fs::read_to_string(Path::new(ROOT).join("Dockerfile")).expect("read the Dockerfile");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut stages: Vec<Vec<Instruction>> = Vec::new();
    for line in lines.join("\n").replace("\\\n", " ").lines().filter(|line| !line.trim().is_empty()) {
        let (name, rest) = line.split_once(' ').expect("an instruction");
        let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
        if name == "FROM" {
            stages.push(Vec::new());
        }
        stages.last_mut().expect("FROM comes first").push(Instruction { name: name.to_owned(), rest });
    }
    stages
}

/// What follows each instruction of that name.
fn all<'a>(stage: &'a [Instruction], name: &str) -> Vec<&'a str> {
    stage.iter().filter(|it| it.name == name).map(|it| it.rest.as_str()).collect()
}

/// The commands of a stage, those that are joined with `&&` one by one.
fn commands(stage: &[Instruction]) -> Vec<&str> {
    all(stage, "RUN").into_iter().flat_map(|run| run.split(" && ")).collect()
}

/// The packages that a stage installs.
fn installed(stage: &[Instruction]) -> BTreeSet<&str> {
    let install = commands(stage).into_iter().filter_map(|it| it.strip_prefix("apt-get install "));
    install.flat_map(|it| it.split(' ')).filter(|it| !it.starts_with('-')).collect()
}

/// Tracked files, and new ones that are not ignored, that `.dockerignore` lets through.
fn context() -> Vec<PathBuf> {
    let ignore = fs::read_to_string(Path::new(ROOT).join(".dockerignore")).expect("read .dockerignore");
    let mut rules = ignore.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(rules.next(), Some("*"), "nothing is let through but what is named");
    let through: Vec<&str> = rules.map(|rule| rule.strip_prefix('!').expect("a name let through")).collect();
    let listed = Command::new("git")
        .args(["-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .expect("run git");
    let names = String::from_utf8(listed.stdout).expect("names in UTF-8");
    let files = names.split_terminator('\0').map(PathBuf::from);
    let is_through = |path: &PathBuf| through.iter().any(|name| path.starts_with(name));
    files.filter(|path| is_through(path) && Path::new(ROOT).join(path).is_file()).collect()
}

/// Makes `tree` what the stage's COPY instructions make of the context.
fn copy(stage: &[Instruction], tree: &Path) {
    let context = context();
    let mut wanted = BTreeSet::new();
    for instruction in all(stage, "COPY") {
        let names: Vec<&str> = instruction.split(' ').collect();
        let (to, from) = names.split_last().expect("COPY from… to");
        for from in from {
            let files: Vec<&PathBuf> = context.iter().filter(|path| path.starts_with(from)).collect();
            assert!(!files.is_empty(), "COPY {from}: .dockerignore lets nothing of it through");
            for file in files {
                let below = file.strip_prefix(from).expect("starts with it");
                let place = if to.ends_with('/') { Path::new(to).join(file) } else { Path::new(to).join(below) };
                let place: PathBuf = place.strip_prefix("./").unwrap_or(&place).components().collect();
                put(&tree.join(&place), &fs::read(Path::new(ROOT).join(file)).expect("read a source"));
                wanted.insert(place);
            }
        }
    }
    remove_others(tree, tree, &wanted);
}

/// Writes a file only where it differs, so that cargo builds again only what has changed.
fn put(path: &Path, content: &[u8]) {
    if fs::read(path).is_ok_and(|there| there == content) {
        return;
    }
    fs::create_dir_all(path.parent().expect("parent")).expect("make a folder");
    fs::write(path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

/// Deletes what an earlier copy had and this one does not.
fn remove_others(folder: &Path, tree: &Path, wanted: &BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("read a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_others(&path, tree, wanted);
        } else if !wanted.contains(path.strip_prefix(tree).expect("in the tree")) {
            fs::remove_file(&path).expect("delete a file");
        }
    }
}

/// Runs the stage's own cargo command in the tree, and gives the program that it makes.
fn build(stage: &[Instruction], tree: &Path, into: &Path) -> PathBuf {
    let profile = Path::new(FRESHET).parent().expect("the profile's folder");
    let cargo_build = commands(stage).into_iter().find_map(|it| it.split_once("cargo build ")).expect("cargo build").1;
    // Without its optimization across crates, which takes ten minutes: what it copies and needs is the same.
    let cargo_build = cargo_build.strip_prefix("--profile dist ").expect("the image has the program as it is measured");
    let arguments: Vec<&str> = cargo_build.split(' ').collect();
    assert!(arguments.contains(&"--locked"), "the image is built from Cargo.lock");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--offline", "--release"]).args(&arguments).current_dir(tree);
    // As in tests/fifth_domain.rs: the files of this build lie beside ours, and cargo does not know them apart by
    // their folder. It does by how they are compiled: here quickly rather than well.
    for package in PACKAGES {
        cargo.args(["--config", &format!("profile.release.package.{package}.codegen-units=14")]);
        cargo.args(["--config", &format!("profile.release.package.{package}.opt-level=1")]);
    }
    cargo.env("CARGO_BUILD_BUILD_DIR", profile.parent().expect("the target folder")).env("CARGO_TARGET_DIR", into);
    for (name, _) in std::env::vars() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "LD_LIBRARY_PATH"].iter().any(|it| name.starts_with(it)) {
            cargo.env_remove(name);
        }
    }
    let since = Instant::now();
    let output = cargo.output().expect("run cargo");
    assert!(output.status.success(), "cargo build: {}", String::from_utf8_lossy(&output.stderr));
    println!("built in {:.1} s", since.elapsed().as_secs_f64());
    into.join("release/freshet")
}

/// The program of the image: made by the Dockerfile's own steps when it is first asked for.
pub(crate) fn program() -> &'static Path {
    static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
        let stages = stages();
        let [first, second] = stages.as_slice() else { panic!("two stages: {stages:?}") };
        let folder = Path::new(FRESHET).parent().and_then(Path::parent).expect("the target folder").join("image");
        let tree = folder.join("src");
        fs::create_dir_all(&tree).expect("make the tree");
        copy(first, &tree);
        let built = build(first, &tree, &folder.join("target"));
        // The stage's own `strip`, and then the one thing that the second stage copies.
        let strip = commands(first).into_iter().find(|it| it.starts_with("strip ")).expect("strip").to_owned();
        let [.., "-o", program, source] = strip.split(' ').collect::<Vec<_>>()[..] else { panic!("{strip}") };
        assert_eq!(source, "target/dist/freshet");
        assert_eq!(all(second, "COPY"), [format!("--from=build {program} /usr/local/bin/freshet")]);
        let image = folder.join("freshet");
        let flags = strip.split(' ').skip(1).filter(|it| it.starts_with("--"));
        let stripped = Command::new("strip").args(flags).arg("-o").args([&image, &built]).status();
        assert!(stripped.expect("run strip").success());
        image
    });
    &MADE
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// These packages and all that they need, as this Debian has them.
fn with_what_they_need(packages: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    let mut open: Vec<String> = packages.into_iter().collect();
    let mut all = BTreeSet::new();
    while let Some(package) = open.pop() {
        if !all.insert(package.clone()) {
            continue;
        }
        let needs = output_of("dpkg-query", &["--show", "--showformat=${Pre-Depends}, ${Depends}\n", &package]);
        let names = needs.split(',').flat_map(|one| one.split('|')).filter_map(|one| one.split_whitespace().next());
        open.extend(names.map(|name| name.split(':').next().unwrap_or(name).to_owned()));
    }
    all
}

/// The package that a library is of. A path may be told of in its old place, without `/usr`.
fn package_of(library: &str) -> String {
    let real = fs::canonicalize(library).expect("a library that is there").display().to_string();
    let owners = [real.as_str(), real.trim_start_matches("/usr"), library];
    let owner = owners.iter().map(|path| output_of("dpkg", &["--search", path])).find(|said| !said.is_empty());
    let owner = owner.unwrap_or_else(|| panic!("{library} is of no package"));
    owner.split(':').next().expect("a package").to_owned()
}

#[test]
fn what_the_image_copies_is_enough_to_build_and_run_it() {
    let stages = stages();
    let [_, second] = stages.as_slice() else { panic!("two stages: {stages:?}") };
    let program = program().display().to_string();
    println!("the program of the image: {} MiB", fs::metadata(&program).expect("made").len() >> 20);
    assert!(output_of(&program, &["--version"]).starts_with("freshet "));

    // Elsewhere libraries are of packages with other names.
    if !fs::read_to_string("/etc/os-release").is_ok_and(|it| it.contains("VERSION_CODENAME=bookworm")) {
        return println!("this is no Debian bookworm: the libraries are not looked at");
    }
    let installs = installed(second);
    let there = with_what_they_need(installs.iter().copied().chain(BASE).map(str::to_owned));
    let loaded = output_of("ldd", &[&program]);
    let libraries: Vec<&str> =
        loaded.lines().filter_map(|line| line.split_once("=> ")).filter_map(|it| it.1.split(' ').next()).collect();
    assert!(libraries.len() > 3 && !loaded.contains("not found"), "{loaded}");
    let mut needed = BTreeSet::new();
    for library in libraries {
        let package = package_of(library);
        assert!(there.contains(&package), "{library} is of {package}, which the image does not install");
        needed.insert(package);
    }
    let unused = installs.into_iter().filter(|it| *it != "ca-certificates" && !needed.contains(*it));
    assert_eq!(unused.collect::<Vec<_>>(), [""; 0], "installed for nothing");
}

#[test]
fn the_image_runs_as_nobody_and_stops_when_told() {
    let stages = stages();
    let [first, second] = stages.as_slice() else { panic!("two stages: {stages:?}") };
    assert_eq!(all(second, "USER"), ["10001:10001"]);
    assert_eq!(all(second, "STOPSIGNAL"), ["SIGTERM"]);
    assert_eq!(all(second, "ENTRYPOINT"), [r#"["freshet"]"#], "freshet is told itself, and not a shell");
    for from in all(first, "FROM").into_iter().chain(all(second, "FROM")) {
        assert!(from.contains(':') && !from.contains(":latest"), "{from} is not pinned");
    }
    // The compiler is the one that the workspace asks for, and what it needs is what scripts/setup installs.
    let manifest: toml::Table =
        fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).expect("read").parse().expect("TOML");
    let version = manifest["workspace"]["package"]["rust-version"].as_str().expect("a version");
    assert_eq!(all(first, "FROM"), [format!("rust:{version}-bookworm AS build")]);
    let setup = fs::read_to_string(Path::new(ROOT).join("scripts/setup")).expect("read scripts/setup");
    for package in installed(first) {
        assert!(setup.contains(&format!("missing+=({package})")), "scripts/setup does not install {package}");
    }
}
