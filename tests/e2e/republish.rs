//! Files are sent again from S3: where a topic lost them, where they are to win once more, where Kafka is gone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use axum::http::{Method, StatusCode, Uri};
use freshet_ingest::object::ObjectReader;
use freshet_ingest::republish;
use freshet_sinks::ledger::{self, Selection};

use crate::harness::{Process, World, data, folder, process};

/// How long a command may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

async fn run(world: &World, line: &str) -> (Option<i32>, String) {
    let mut command = world.spawn(&line.split(' ').collect::<Vec<_>>());
    let code = command.ended(COMMAND_WITHIN).await;
    (code, command.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_sent_again_changes_nothing_and_is_as_fresh_as_it_was() {
    let world = World::new("again").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(3, "2025-06-01", 20, 5)).await;
    world.put("hospital/a.csv", data::hospital(3, "2025-06-01", 20, 5)).await;
    world.settle().await;
    let applied_at = "SELECT string_agg(applied_at::text, ' ' ORDER BY id) FROM pipeline.objects";
    let (before, rows) =
        (world.query::<String>(applied_at).await, "SELECT sum(duplicate)::bigint FROM pipeline.progress");
    let (code, said) = run(&world, "republish --prefix health/").await;
    assert_eq!(code, Some(1), "it asks first: {said}");
    assert!(said.contains("1 file, 60 rows: health/a.csv"), "{said}");
    let (code, said) = run(&world, "republish --prefix health/ --yes").await;
    assert_eq!(code, Some(0), "{said}");
    world.settle().await;
    assert_eq!(world.query::<i64>(rows).await, 60, "each row came once more, and is a duplicate");
    assert_eq!(world.query::<String>(applied_at).await, before);
    world.all_hold().await;

    // Of two files one is not known: the other is sent, and the command fails.
    let (code, said) = run(&world, "republish --file hospital/a.csv --file hospital/b.csv --yes").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no file `hospital/b.csv` was found") && said.contains("will send 1 file again"), "{said}");
    world.settle().await;
    world.all_hold().await;

    // What S3 does not have is said and left as it is.
    let version: Option<String> =
        world.query("SELECT version_id FROM pipeline.objects WHERE key = 'health/a.csv'").await;
    let request = world.services.s3.delete_object().bucket(world.raw_bucket()).key("health/a.csv");
    request.set_version_id(version).send().await.expect("delete the version itself");
    let (code, said) = run(&world, "republish --object health/a.csv --yes").await;
    assert_eq!(code, Some(1));
    assert!(said.contains("S3 no longer has 1 file: health/a.csv"), "{said}");
    assert_eq!(world.object("health/a.csv").await.state, "applied");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_sent_again_as_new_wins_over_what_came_after_it() {
    let world = World::new("as-new").await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(3, "2025-06-01", 20, 5)).await;
    world.settle().await;
    world.next_second().await;
    world.put("health/b.csv", data::health(3, "2025-06-01", 20, 9)).await;
    world.settle().await;
    let from = "SELECT count(*) FROM health_data h JOIN pipeline.objects o ON o.id = h.src_object WHERE o.key = 'health/a.csv'";
    assert_eq!(world.query::<i64>(from).await, 0);
    let (code, said) = run(&world, "republish --object health/a.csv --as-new --yes").await;
    assert_eq!(code, Some(0), "{said}");
    world.settle().await;
    assert_eq!(world.query::<i64>(from).await, 60);
    assert_eq!(world.object("health/a.csv").await.generation, 2);
    world.all_hold().await;
    // A version that was overtaken meanwhile does not come back over the newer one.
    let reader = ObjectReader::new(world.services.s3.clone());
    let selection = Selection { keys: vec!["health/a.csv".into()], as_new: true, ..Selection::default() };
    let selected = republish::select(&world.services.pool, &reader, world.raw_bucket(), &selection).await;
    let selected = selected.expect("select").ready;
    world.put("health/a.csv", data::health(3, "2025-06-01", 20, 7)).await;
    world.settle().await;
    assert_eq!(ledger::send_as_new(&world.services.pool, &selected).await.expect("ask"), 0);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_s3_does_not_answer_about_keeps_no_other_from_being_sent_again() {
    let (world, proxy) = World::behind_a_proxy("unanswered", |_| ()).await;
    let roles = world.run_all();
    world.put("health/a.csv", data::health(3, "2025-06-01", 20, 5)).await;
    world.put("health/b.csv", data::health(3, "2025-08-01", 20, 5)).await;
    world.settle().await;
    let is_silent = |method: &Method, uri: &Uri| {
        let is_asked = method == Method::HEAD && uri.path().ends_with("health/a.csv");
        is_asked.then_some(StatusCode::SERVICE_UNAVAILABLE)
    };
    proxy.answer(is_silent);
    let (code, said) = run(&world, "republish --all --yes").await;
    assert!(proxy.recover() > 1, "it is asked again");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("S3 did not answer about 1 file") && said.contains("will send 2 files again"), "{said}");
    world.settle().await;
    // S3 answers about none, or the file would forget what arrived before.
    for line in ["republish --file health/a.csv --yes", "republish --all --as-new --yes"] {
        proxy.answer(is_silent);
        let (code, said) = run(&world, line).await;
        proxy.recover();
        assert_eq!(code, Some(1), "{line}: {said}");
    }
    world.all_hold().await;
    roles.stop().await;
}

/// The commands in the `text` blocks of a section of docs/replay.md, block by block.
fn commands_of(heading: &str) -> Vec<Vec<String>> {
    let page = include_str!("../../docs/replay.md");
    let (_, section) = page.split_once(heading).expect("the section is there");
    let section = section.split("\n## ").next().expect("a section");
    let blocks = section.split("```text\n").skip(1).map(|rest| rest.split("```").next().expect("an end"));
    blocks.map(|block| block.lines().map(str::to_owned).collect()).collect()
}

/// Runs commands as they stand there, on the stack of this data folder.
async fn run_on(data: &Path, commands: &[String]) {
    for line in commands {
        let words = line.strip_prefix("freshet ").expect("a command of ours");
        let line = format!("{words} --data {}", data.display());
        let mut command = Process::start("kafka-lost-command", &line.split(' ').collect::<Vec<_>>(), &[]);
        assert_eq!(command.ended(COMMAND_WITHIN).await, Some(0), "{line}\n{}", command.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_kafka_lost_altogether_the_runbook_brings_everything_back() {
    let data_folder = folder().join("kafka-lost");
    let (process, services) = process::up("kafka-lost", &data_folder, &[]).await;
    let mut world = World::over("kafka-lost".into(), services, None).await;
    world.put("locations/all.csv", data::locations(5)).await;
    world.put("health/first.csv", data::health(5, "2025-06-01", 60, 5)).await;
    world.put("hospital/first.csv", data::hospital(5, "2025-06-01", 60, 5)).await;
    world.settle().await;
    // Kafka dies with rows on their way: published, not applied.
    let mut held = world.services.pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE health_data IN SHARE MODE").execute(&mut *held).await.expect("keep writers out");
    world.put("health/second.csv", data::health(5, "2025-08-01", 60, 6)).await;
    let published =
        "SELECT EXISTS (SELECT FROM pipeline.objects WHERE key = 'health/second.csv' AND state = 'published')";
    world.until("the file is published", published).await;
    process.kill();
    drop(held);
    fs::remove_dir_all(data_folder.join("kafka")).expect("delete Kafka's data");

    let (process, services) = process::up("kafka-lost", &data_folder, &[]).await;
    world.services = services;
    let halted = "SELECT count(*) > 0 AND bool_and(halted LIKE '%the topic was recreated%') FROM pipeline.bookmarks";
    world.until("every partition is halted", halted).await;
    let [recover, history] = &commands_of("## Kafka is lost")[..] else { panic!("two blocks of commands") };
    run_on(&data_folder, recover).await;
    world.put("hospital/second.csv", data::hospital(5, "2025-08-01", 60, 6)).await;
    world.all_but_the_tiling_hold().await;

    // History: the topics hold again what replays need.
    run_on(&data_folder, history).await;
    world.execute("UPDATE health_data SET dengue_cases = 99999").await;
    run_on(&data_folder, &["freshet replay health --from beginning".to_owned()]).await;
    world.all_but_the_tiling_hold().await;
    assert_eq!(process.terminate(Duration::from_secs(60)).await, Some(0));
}
