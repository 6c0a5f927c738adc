//! The status page in a real browser, beside a running pipeline: `page.test.js` says what it has to show.
//!
//! `cargo test --release --test page -- --ignored` takes the picture of it that the README shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use packages::installed;
use pipeline::Pipeline;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;

#[path = "../grafana/packages.rs"]
mod packages;
// Other tests ask more of it.
#[allow(dead_code)]
#[path = "../grafana/pipeline.rs"]
mod pipeline;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Names under which Chromium, or what it is made into, is installed.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

fn browser() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut programs = std::env::split_paths(&path).flat_map(|folder| BROWSERS.map(|name| folder.join(name)));
    programs.find(|program| program.is_file()).expect("there is no chromium: run `scripts/setup tests`")
}

/// Runs a script of this folder, which gets the pipeline's addresses and keys and the browser in its environment.
fn run(pipeline: &Pipeline, script: &str, arguments: &[&str]) {
    let here = Path::new(ROOT).join("tests/page");
    let wanted = fs::read_to_string(here.join("package.json")).expect("read package.json");
    let folder = installed("page", &wanted);
    // Beside the packages, where their names lead to them.
    for name in ["page.test.js", "missing.test.js", "picture.js", "browser.js"] {
        fs::copy(here.join(name), folder.join(name)).expect("copy a script");
    }
    let mut node = Command::new("node");
    node.args(arguments).arg(script).current_dir(folder);
    node.env("BROWSER", browser()).env("SCRATCH", pipeline.folder());
    // The commands that the page proposes are run.
    let built = Path::new(env!("CARGO_BIN_EXE_freshet")).parent().expect("the folder of the command");
    node.env("PATH", format!("{}:{}", built.display(), std::env::var("PATH").expect("PATH")));
    for name in [
        "DATABASE_URL",
        "FRESHET_HTTP",
        "FRESHET_RAW_BUCKET",
        "FRESHET_PROCESSED_BUCKET",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ] {
        node.env(name, pipeline.env(name));
    }
    let status = node.status().expect("run node: scripts/setup installs it");
    assert!(status.success(), "{script}: {status}");
}

#[test]
fn the_page_shows_what_is_dropped() {
    let pipeline = Pipeline::start_with("page", &["--set", "http.uploads=true"]);
    run(&pipeline, "page.test.js", &["--test", "--test-reporter=spec"]);
    delete_topic(&pipeline, "freshet.climate");
    run(&pipeline, "missing.test.js", &["--test", "--test-reporter=spec"]);
}

fn delete_topic(pipeline: &Pipeline, topic: &str) {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", pipeline.env("KAFKA_BROKERS"));
    let admin: AdminClient<DefaultClientContext> = settings.create().expect("an admin client");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let deleted = runtime.block_on(async { admin.delete_topics(&[topic], &AdminOptions::new()).await });
    deleted.expect("ask for the deletion")[0].as_ref().expect("delete the topic");
}

#[test]
#[ignore = "writes docs/status-page.png"]
fn picture() {
    let pipeline = Pipeline::start("picture");
    let out = pipeline.folder().join("samples");
    let folder = out.to_string_lossy().into_owned();
    let options = ["--seed", "9", "--locations", "24", "--days", "60", "--dirty", "0.02", "--rows-per-file", "300"];
    pipeline.run(&[["generate", "--out", &folder].as_slice(), &options].concat());
    run(&pipeline, "picture.js", &[]);
    let taken = pipeline.folder().join("status-page.png");
    let bytes = fs::metadata(&taken).expect("the picture was taken").len();
    assert!(bytes < 250_000, "the picture has {bytes} bytes");
    fs::copy(taken, Path::new(ROOT).join("docs/status-page.png")).expect("keep the picture");
}
