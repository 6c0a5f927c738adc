//! The README and the pages in `docs/` are true: their commands run as they stand there, the settings they show are
//! accepted, their links lead somewhere, and their lists are those of the code.
//!
//! Commands run in a folder of the test's own. `freshet` is the one just built; `make` is a shim that runs the
//! repository's Makefile with `.freshet` of that folder as its data.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use freshet::commands::capacity::RowCost;
use freshet::local;

const FRESHET: &str = env!("CARGO_BIN_EXE_freshet");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// How a block is treated that is not simply run to its end.
#[derive(Clone, Copy)]
enum Special {
    /// Not run, for this reason.
    NotRun(&'static str),
    /// Run where this program is there; set-up does not install it.
    Needs(&'static str),
    /// Keeps running until Ctrl-C: started, and stopped after all else.
    Holds,
    /// Each line keeps running until Ctrl-C: all are started, looked at for [`SERVES_FOR`], and stopped.
    Serves,
}

/// Blocks of commands, by page and first line, that are treated specially. Each must be there.
const SPECIAL: &[(&str, &str, Special)] = &[
    ("README.md", "make test", Special::NotRun("this test is part of it")),
    ("README.md", "make up", Special::Holds),
    ("README.md", "aws s3 cp mine.csv", Special::Needs("aws")),
    ("README.md", "freshet ingest", Special::Serves),
    ("docs/migrate.md", "pg_dump --no-owner", MIGRATES),
    ("docs/migrate.md", "freshet setup\n", MIGRATES),
    ("docs/migrate.md", "freshet compare", MIGRATES),
    ("docs/topics.md", "kcat", Special::Needs("kcat")),
    ("docs/topics.md", "kafka-console-consumer.sh", Special::Needs("kafka-console-consumer.sh")),
];

/// It needs tables of batch jobs.
const MIGRATES: Special = Special::NotRun("tests/e2e/takeover/page.rs runs the page on a database of batch jobs");

/// Where `scripts/setup tests` puts what Python blocks import, in the cache.
const READERS: &str = "readers-1";
/// A role that cannot go on says so well within this.
const SERVES_FOR: Duration = Duration::from_secs(4);
/// How long a role may take until it serves its metrics.
const SERVES_WITHIN: Duration = Duration::from_secs(60);
/// `make up` may have to build first.
const UP_TIMEOUT: Duration = Duration::from_secs(1_800);
/// Draining is bounded by 30 s, stopping the stack by less.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

struct Block {
    page: String,
    line: usize,
    language: String,
    text: String,
}

/// README first, then the pages in order.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).expect("docs").flatten().map(|entry| entry.path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    pages.sort();
    pages.insert(0, Path::new(ROOT).join("README.md"));
    pages
}

fn name_of(page: &Path) -> String {
    page.strip_prefix(ROOT).expect("a page of ours").to_string_lossy().into_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for page in pages() {
        let mut open: Option<Block> = None;
        for (number, line) in read(&page).lines().enumerate() {
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.text.extend([line, "\n"]),
                (None, Some(language)) => {
                    assert!(!language.is_empty(), "{}:{}: a block without a language", name_of(&page), number + 1);
                    let language = language.to_owned();
                    open = Some(Block { page: name_of(&page), line: number + 1, language, text: String::new() });
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", name_of(&page));
    }
    blocks
}

impl Block {
    fn is_commands(&self) -> bool {
        matches!(self.language.as_str(), "sh" | "bash" | "console" | "shell")
    }

    fn is_python(&self) -> bool {
        self.language == "python"
    }

    fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }

    fn special(&self) -> Option<Special> {
        let fits = |(page, first, _): &&(&str, &str, Special)| self.page == *page && self.text.starts_with(first);
        SPECIAL.iter().find(fits).map(|(.., special)| *special)
    }
}

/// A shell's environment that lives on from block to block, in a folder that goes with it.
struct Session {
    folder: PathBuf,
    held: Vec<(String, Child)>,
}

impl Session {
    fn start() -> Session {
        let folder = std::env::temp_dir().join(format!("freshet-readme-{}", std::process::id()));
        fs::create_dir_all(folder.join("bin")).expect("make the folder");
        let shim = format!(
            "#!/bin/sh\nexec \"$REAL_MAKE\" --no-print-directory -C '{ROOT}' DATA=\"$SESSION/.freshet\" \"$@\"\n"
        );
        fs::write(folder.join("bin/make"), shim).expect("write the shim");
        let executable = Command::new("chmod").arg("755").arg(folder.join("bin/make")).status();
        assert!(executable.expect("chmod").success());
        fs::write(folder.join("environment"), "").expect("write the environment");
        Session { folder, held: Vec::new() }
    }

    /// A shell that runs `script` with the environment that earlier blocks left, and leaves its own.
    fn shell(&self, script: &str) -> Command {
        let mut shell = Command::new("bash");
        let text =
            format!(". \"$SESSION/environment\"\nset -eu -o pipefail\n{script}\nexport -p >\"$SESSION/environment\"\n");
        shell.args(["-c", &text]).current_dir(&self.folder).stdin(Stdio::null());
        // What `cargo test`, `make test` and a developer's shell have set is not what a newcomer has.
        for (name, _) in std::env::vars() {
            let prefixes = ["FRESHET_", "AWS_", "CARGO_PKG_", "CARGO_MANIFEST_", "MAKE", "MFLAGS", "LD_LIBRARY_PATH"];
            let kept = matches!(name.as_str(), "FRESHET_HOME" | "AWS_CA_BUNDLE");
            let ours = prefixes.iter().any(|prefix| name.starts_with(prefix));
            if !kept && (ours || ["DATABASE_URL", "KAFKA_BROKERS", "RUST_LOG"].contains(&name.as_str())) {
                shell.env_remove(name);
            }
        }
        let built = Path::new(FRESHET).parent().expect("the folder of the command");
        let path = std::env::var("PATH").expect("PATH");
        let make = Command::new("sh").args(["-c", "command -v make"]).output().expect("look for make").stdout;
        shell
            .env("PATH", format!("{}:{}:{path}", self.folder.join("bin").display(), built.display()))
            .env("REAL_MAKE", String::from_utf8_lossy(&make).trim())
            .env("SESSION", &self.folder)
            .env("CARGO_TARGET_DIR", built.parent().expect("the target folder"));
        shell
    }

    fn run(&self, block: &Block) {
        let since = Instant::now();
        let output = match block.is_python() {
            true => {
                fs::write(self.folder.join("block.py"), &block.text).expect("write the script");
                let python = local::cache_dir().join(READERS).join("bin/python");
                self.shell(&format!("'{}' block.py", python.display()))
            }
            false => self.shell(&block.text),
        };
        let output = { output }.output().expect("run bash");
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{}\n{}{said}({:.1} s)\n", block.place(), block.text, since.elapsed().as_secs_f64());
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}\n{}\n{complaint}", block.place(), output.status, block.text);
    }

    /// Starts a command that runs until Ctrl-C, in a process group of its own as a terminal does.
    fn spawn(&self, command: &str, log: &str) -> Child {
        use std::os::unix::process::CommandExt;
        let log = File::create(self.folder.join(log)).expect("make the log");
        let errors = log.try_clone().expect("the log again");
        let script = format!("exec {command}");
        self.shell(&script).process_group(0).stdout(log).stderr(errors).spawn().expect("run bash")
    }

    fn hold(&mut self, block: &Block) {
        let child = self.spawn(block.text.trim(), "held.log");
        self.held.push((block.text.trim().to_owned(), child));
        let since = Instant::now();
        while local::read_env(&self.folder.join(".freshet")).is_none() {
            let ended = self.held.last_mut().expect("held").1.try_wait().expect("wait");
            let log = || read(&self.folder.join("held.log"));
            assert!(ended.is_none() && since.elapsed() < UP_TIMEOUT, "{}: {ended:?}\n{}", block.place(), log());
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("{}\n{}(up after {:.1} s)\n", block.place(), block.text, since.elapsed().as_secs_f64());
    }

    fn serve(&self, block: &Block) {
        let lines: Vec<&str> = block.text.lines().collect();
        let logs: Vec<String> = (0..lines.len()).map(|index| format!("serve-{index}.log")).collect();
        let mut children: Vec<Child> = lines.iter().zip(&logs).map(|(line, log)| self.spawn(line, log)).collect();
        // Before a role says this, Ctrl-C ends it as it ends any program.
        let serves = |log: &String| read(&self.folder.join(log)).contains("serving /metrics");
        let since = Instant::now();
        while !logs.iter().all(serves) && since.elapsed() < SERVES_WITHIN {
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(SERVES_FOR);
        let ended: Vec<_> = children.iter_mut().map(|child| child.try_wait().expect("wait")).collect();
        let codes: Vec<_> = children.iter_mut().map(interrupt).collect();
        for (((line, log), ended), code) in lines.iter().zip(&logs).zip(ended).zip(codes) {
            let fits = serves(log) && ended.is_none() && code == Some(0);
            assert!(fits, "{}: {line}: {ended:?} {code:?}\n{}", block.place(), read(&self.folder.join(log)));
        }
        println!("{}\n{}(all served and stopped)\n", block.place(), block.text);
    }
}

/// Ctrl-C, as a terminal sends it: to the whole process group.
fn interrupt(child: &mut Child) -> Option<i32> {
    let group = format!("-{}", child.id());
    if child.try_wait().expect("wait").is_none() {
        Command::new("kill").args(["-INT", "--", &group]).status().expect("kill");
    }
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status.code();
        }
        if since.elapsed() > STOP_TIMEOUT {
            Command::new("kill").args(["-KILL", "--", &group]).status().expect("kill");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for (_, child) in &mut self.held {
            interrupt(child);
        }
        local::remove(&self.folder.join(".freshet")).ok();
        fs::remove_dir_all(&self.folder).ok();
    }
}

fn is_there(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output();
    found.is_ok_and(|output| output.status.success())
}

#[test]
fn every_command_of_the_pages_works_as_it_stands_there() {
    let mut session = Session::start();
    for block in blocks().iter().filter(|block| block.is_commands() || block.is_python()) {
        match block.special() {
            None => session.run(block),
            Some(Special::Holds) => session.hold(block),
            Some(Special::Serves) => session.serve(block),
            Some(Special::Needs(program)) if is_there(program) => session.run(block),
            Some(Special::Needs(program)) => println!("{}: not run, there is no {program} here\n", block.place()),
            Some(Special::NotRun(reason)) => println!("{}: not run, {reason}\n", block.place()),
        }
    }
    // What ran until Ctrl-C drains, and leaves nothing behind.
    let (command, mut child) = session.held.pop().expect("make up");
    interrupt(&mut child);
    let log = read(&session.folder.join("held.log"));
    assert!(log.lines().any(|line| line == "stopped"), "{command}:\n{log}");
    assert_eq!(local::running(&session.folder.join(".freshet")), None);
}

#[test]
fn every_special_block_is_there_once() {
    let blocks = blocks();
    for (page, first, _) in SPECIAL {
        let found =
            blocks.iter().filter(|block| block.is_commands() && block.page == *page && block.text.starts_with(first));
        assert_eq!(found.count(), 1, "{page}: {first}");
    }
}

#[test]
fn the_settings_shown_are_accepted() {
    let shown: Vec<Block> = blocks().into_iter().filter(|block| block.language == "toml").collect();
    assert!(!shown.is_empty());
    let folder = tempfile::tempdir().expect("a folder");
    for block in shown {
        let file = folder.path().join("settings.toml");
        // Secrets that are mounted there.
        let secrets = folder.path().join("secrets");
        fs::create_dir_all(&secrets).expect("a folder");
        for name in block.text.split("/run/secrets/").skip(1).filter_map(|rest| rest.split('"').next()) {
            fs::write(secrets.join(name), "a secret of some length\n".replace(' ', "-")).expect("write a secret");
        }
        let text = block.text.replace("/run/secrets", &secrets.display().to_string());
        fs::write(&file, text).expect("write the settings");
        let output =
            Command::new(FRESHET).arg("--config").arg(&file).arg("check-config").output().expect("run freshet");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {complaint}", block.place());
    }
    // A setting named in the text is one that the defaults have.
    let defaults: toml::Table = freshet::config::DEFAULT.parse().expect("default.toml");
    for page in pages() {
        for code in read(&page).split('`').skip(1).step_by(2) {
            let Some((section, key)) = code.split_once('.') else { continue };
            let Some(settings) = defaults.get(section).and_then(toml::Value::as_table) else { continue };
            let is_setting = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(!is_setting || settings.contains_key(key), "{}: no setting {code}", name_of(&page));
        }
    }
}

/// What a heading is linked as.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
    kept.map(|it| if it == ' ' { '-' } else { it.to_ascii_lowercase() }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for page in pages() {
        let text = read(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link)) {
            if link.starts_with("https://") || link.starts_with("http://") {
                continue;
            }
            links += 1;
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().expect("parent").join(file) };
            assert!(target.exists(), "{}: {link}", name_of(&page));
            let headings = || {
                read(&target)
                    .lines()
                    .filter_map(|line| line.strip_prefix('#').map(|it| anchor(it.trim_start_matches('#'))))
                    .collect::<Vec<_>>()
            };
            assert!(fragment.is_empty() || headings().contains(&fragment.to_owned()), "{}: {link}", name_of(&page));
        }
    }
    assert!(links > 10);
}

/// Every file below a folder of the repository of that name.
fn files_named(folder: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("read a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_named(&path, name, found);
        } else if path.file_name().is_some_and(|it| it == name) {
            found.push(path);
        }
    }
}

#[test]
fn make_test_checks_format_and_lints_and_runs_all_tests() {
    let makefile = read(&Path::new(ROOT).join("Makefile"));
    let recipe = makefile.split_once("\ntest: ").and_then(|(_, rest)| rest.split_once("\n\n")).expect("the target").0;
    for step in ["fmt --all --check", "clippy --release --workspace", "-- -D warnings", "test --release --workspace"] {
        assert!(recipe.contains(step), "make test does not run {step}");
    }
}

#[test]
fn the_metrics_listed_are_those_declared() {
    let mut files = Vec::new();
    for folder in ["src", "ingest/src", "processors/src", "sinks/src", "topics/src"] {
        files_named(&Path::new(ROOT).join(folder), "metrics.rs", &mut files);
    }
    let mut declared = BTreeSet::new();
    for file in files {
        let text = read(&file);
        declared
            .extend(text.split('"').filter(|it| it.starts_with("freshet_") && !it.contains(' ')).map(str::to_owned));
    }
    let page = read(&Path::new(ROOT).join("docs/metrics.md"));
    let rows = page.lines().filter_map(|line| {
        line.strip_prefix("| `freshet_")?.split_once('`').map(|(name, _)| format!("freshet_{name}"))
    });
    let mut listed = BTreeMap::new();
    rows.for_each(|name| *listed.entry(name).or_insert(0) += 1);
    assert!(listed.values().all(|times| *times == 1), "listed twice: {listed:?}");
    assert!(declared.len() > 30);
    assert_eq!(listed.into_keys().collect::<BTreeSet<_>>(), declared);
}

#[test]
fn the_plan_on_the_page_is_what_the_program_says() {
    let of_page: Vec<Block> = blocks().into_iter().filter(|block| block.page == "docs/scaling.md").collect();
    let command = of_page.iter().find(|block| block.text.starts_with("freshet capacity")).expect("a command");
    let plan = of_page.iter().find(|block| block.language == "text plan").expect("a plan");
    let arguments = command.text.split_whitespace().skip(1);
    let output = Command::new(FRESHET).args(arguments).env_remove("COLUMNS").output().expect("run freshet");
    assert_eq!(String::from_utf8_lossy(&output.stdout), plan.text);
}

#[test]
fn the_costs_of_a_row_on_the_page_are_those_that_a_load_is_planned_with() {
    let page = read(&Path::new(ROOT).join("docs/performance.md"));
    let RowCost { ingest_us, process_us, metrics_us, kafka_us, postgres_us, topic_share, log_overhead, table_overhead } =
        RowCost::MEASURED;
    for (what, cost) in [
        ("`--ingest-us`", format!("{ingest_us:.2} µs")),
        ("`--process-us`", format!("{process_us:.2} µs")),
        ("`--metrics-us`", format!("{metrics_us:.2} µs")),
        ("`--kafka-us`", format!("{kafka_us:.2} µs")),
        ("`--postgres-us`", format!("{postgres_us:.2} µs")),
        ("`--topic-share`", format!("{topic_share:.2}")),
        ("`--log-overhead`", format!("{log_overhead:.0} bytes")),
        ("`--table-overhead`", format!("{table_overhead:.0} bytes")),
    ] {
        let line = page.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what} is not there"));
        assert!(line.contains(&format!("| {cost} |")), "{what} is {cost}: {line}");
    }
}

#[test]
fn the_plan_for_the_measured_rate_takes_the_cores_that_were_measured() {
    let page = read(&Path::new(ROOT).join("docs/performance.md"));
    let number = |line: &str| {
        let line = page.lines().find(|it| it.starts_with(line)).unwrap_or_else(|| panic!("no line {line}"));
        let cell = line.split('|').nth(2).expect("a second cell").replace(',', "");
        cell.trim_matches(|it: char| !it.is_ascii_digit()).parse::<f64>().expect("a number")
    };
    let (rate, idle) = (number("| freshet, from the first byte"), number("| idle cores meanwhile"));
    let rows_per_day = ((rate * 86_400.0) as u64).to_string();
    let output = Command::new(FRESHET)
        .args(["capacity", "--busy", "100", "--replicas", "1", "--json", "--rows-per-day", &rows_per_day])
        .output()
        .expect("run freshet");
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let planned: f64 = ["freshet_cores", "kafka_cores", "postgres_cores"]
        .iter()
        .map(|cores| plan[cores].as_f64().expect("cores"))
        .sum();
    // The plan has no S3 server in it.
    let measured = 2.0 * (1.0 - idle / 100.0) - rate * number("| SeaweedFS |") / 1e6;
    let quotient = planned / measured;
    assert!((0.85..1.15).contains(&quotient), "{planned:.2} cores are planned, {measured:.2} were measured");
}

#[test]
fn the_page_on_files_names_every_rule_of_the_program() {
    use freshet_topics::{cast, judge};
    let page = read(&Path::new(ROOT).join("docs/files.md"));
    let names = [
        cast::FRACTION_CUT,
        cast::FRACTION_ROUNDED,
        cast::GROUPING_REMOVED,
        cast::TIME_CUT,
        cast::ZONE_ASSUMED,
        cast::OVERFLOW_TO_INFINITY,
        cast::DATE_NORMALISED,
        judge::UNCASTABLE_TO_NULL,
        judge::UNCASTABLE_TO_DEFAULT,
        judge::EMPTY_TO_DEFAULT,
        judge::MISSING_VALUE,
        judge::REQUIRED_EMPTY,
        judge::UNCASTABLE,
        judge::EXTRA_CELLS,
        freshet_sinks::apply::REFUSED_BY_DATABASE,
    ];
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "docs/files.md does not name {name}");
    }
}

#[test]
fn the_page_of_the_shipped_pipeline_names_its_feeds_and_outputs() {
    let page = read(&Path::new(ROOT).join("pipelines/climate_health/README.md"));
    let pipeline = freshet_topics::Pipeline::shipped();
    for domain in pipeline.domains {
        for name in [domain.name, domain.table].iter().chain(domain.patterns) {
            assert!(page.contains(name), "the page does not name {name}");
        }
    }
    for output in pipeline.outputs {
        assert!(page.contains(&format!("](outputs/{}.sql)", output.name)), "the page does not name {}", output.name);
    }
}

#[test]
fn the_output_on_the_page_is_one_of_its_contract() {
    let page = read(&Path::new(ROOT).join("docs/contracts.md"));
    let block =
        |tag: &str| page.split_once(tag).and_then(|(_, rest)| rest.split_once("\n```")).expect(tag).0.to_owned();
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        ("domains/visits.odcs.yaml", block("\n```yaml contract\n")),
        ("outputs/visits_by_month.sql", block("\n```sql output\n")),
    ] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        fs::write(path, text).expect("write");
    }
    let output = Command::new(FRESHET).arg("check").arg(folder.path()).output().expect("run freshet");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 domain, 1 output, without mistakes"), "{said}");
}

#[test]
fn the_faults_on_the_page_are_those_that_are_tried() {
    let folder = Path::new(ROOT).join("tests/e2e/faults");
    let mut tried = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("the tests of faults").flatten() {
        let text = read(&entry.path());
        let module = entry.path().file_stem().expect("a name").to_string_lossy().into_owned();
        for test in text.split("#[tokio::test").skip(1) {
            let name = test.split_once("async fn ").and_then(|(_, rest)| rest.split_once('(')).expect("a test").0;
            let star = if test.split_once("async fn ").is_some_and(|(head, _)| head.contains("#[ignore")) {
                " ★"
            } else {
                ""
            };
            tried.insert(format!("| `{module}::{name}`{star} |"));
        }
    }
    let page = read(&Path::new(ROOT).join("docs/reliability.md"));
    let named = page.lines().filter(|line| line.starts_with("| `") && line.contains("::"));
    let named: BTreeSet<String> =
        named.map(|line| format!("{}|", line.splitn(3, '|').take(2).collect::<Vec<_>>().join("|"))).collect();
    assert_eq!(named, tried);
}
