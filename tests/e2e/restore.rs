//! Postgres goes back in time while Kafka and S3 go on: no row of another life of the ledger counts as one of this one,
//! no row of this one as received before, and nothing is lost.

use std::process::Command;
use std::time::{Duration, Instant};

use freshet::commands::setup::{self, Mode};
use freshet::roles::{Role, Services};
use freshet_sinks::outputs::WindowFiles;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::harness::{World, data, folder, oracles};

/// How long a command may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// How long cutting the connections to a database may take.
const CUT_WITHIN: Duration = Duration::from_secs(20);

/// The server of a world, and the name of its database.
async fn server(world: &World) -> (PgConnection, String) {
    let (server, database) = world.database_url().rsplit_once('/').expect("a URL with a database");
    let admin = PgConnection::connect(&format!("{server}/postgres")).await.expect("connect to Postgres");
    (admin, database.to_owned())
}

/// Does `sql` while nobody is connected to the database.
async fn alone(admin: &mut PgConnection, database: &str, sql: &str) {
    let began = Instant::now();
    let run = async |admin: &mut PgConnection, sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(admin).await.map(|_| ())
    };
    run(admin, format!("ALTER DATABASE \"{database}\" ALLOW_CONNECTIONS false")).await.expect("keep everybody out");
    loop {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname";
        run(admin, format!("{cut} = '{database}'")).await.expect("cut the connections");
        match run(admin, sql.to_owned()).await {
            Ok(()) => return,
            Err(error) => assert!(began.elapsed() < CUT_WITHIN, "{sql}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Copies the database as it is, under the connections of whoever is at work.
async fn back_up(world: &World) {
    let (mut admin, database) = server(world).await;
    let copy = format!("CREATE DATABASE \"{database}-backup\" TEMPLATE \"{database}\"");
    alone(&mut admin, &database, &copy).await;
    let open = format!("ALTER DATABASE \"{database}\" ALLOW_CONNECTIONS true");
    sqlx::raw_sql(AssertSqlSafe(open)).execute(&mut admin).await.expect("let everybody in");
}

/// Puts the copy in the place of the database, as a promotion does: connections are cut, and the next ones find it.
async fn restore(world: &World) {
    let (mut admin, database) = server(world).await;
    alone(&mut admin, &database, &format!("ALTER DATABASE \"{database}\" RENAME TO \"{database}-lost\"")).await;
    alone(
        &mut admin,
        &format!("{database}-backup"),
        &format!("ALTER DATABASE \"{database}-backup\" RENAME TO \"{database}\""),
    )
    .await;
    let open = format!("ALTER DATABASE \"{database}\" ALLOW_CONNECTIONS true");
    sqlx::raw_sql(AssertSqlSafe(open)).execute(&mut admin).await.expect("let everybody in");
}

/// Puts a new, empty database in the place of the old one.
async fn make_anew(world: &World) {
    let (mut admin, database) = server(world).await;
    alone(&mut admin, &database, &format!("ALTER DATABASE \"{database}\" RENAME TO \"{database}-lost\"")).await;
    let create = format!("CREATE DATABASE \"{database}\"");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await.expect("create the database");
}

/// Drops files of a hundred rows each, several a second.
async fn put_many(world: &World, name: &str, files: i32) {
    for number in 0..files {
        let date = format!("2025-{:02}-01", 1 + number % 9);
        world.put(&format!("health/{name}-{number:02}.csv"), data::health(10, &date, 10, 7 * number + 1)).await;
    }
}

async fn run(world: &World, line: &str) -> (Option<i32>, String) {
    let mut command = world.spawn(&line.split(' ').collect::<Vec<_>>());
    let code = command.ended(COMMAND_WITHIN).await;
    (code, command.log())
}

/// The lives of the ledger, by how they began.
async fn lives(world: &World) -> Vec<String> {
    world.column("SELECT why FROM pipeline.lives ORDER BY number").await
}

/// Rows and files passed over.
async fn passed_over(world: &World) -> (i64, i64) {
    let rows = "SELECT coalesce(sum(rows), 0)::bigint FROM pipeline.passed_over";
    let files = "SELECT count(DISTINCT (nonce, object)) FROM pipeline.passed_over";
    (world.query(rows).await, world.query(files).await)
}

/// Published files of outputs of the month that begins that day.
async fn windows_of(world: &World, month: &str) -> usize {
    let manifest = world.manifest().await;
    let is_it = |window: &&WindowFiles| window.window_kind == "month" && window.window_start == data::date(month);
    manifest.windows.iter().filter(is_it).count()
}

async fn duplicates(world: &World) -> i64 {
    world.query("SELECT coalesce(sum(duplicate), 0)::bigint FROM pipeline.progress").await
}

async fn applied_files(world: &World) -> i64 {
    world.query("SELECT count(*) FROM pipeline.objects WHERE state = 'applied'").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_takes_no_row_of_a_new_file_for_a_duplicate() {
    let world = World::new("restored").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(10)).await;
    put_many(&world, "kept", 5).await;
    world.settle().await;
    roles.stop().await;
    back_up(&world).await;
    let roles = world.run_all();
    put_many(&world, "lost", 40).await;
    // S3 has this one no more when the ledger looks again: it goes with the tables, and with their outputs.
    world.put("health/gone.csv", data::health(10, "2023-03-01", 10, 5)).await;
    world.settle().await;
    assert!(windows_of(&world, "2023-03-01").await > 0);
    world.delete("health/gone.csv").await;
    roles.stop().await;
    assert_eq!(world.query::<i64>("SELECT max(id) FROM pipeline.objects").await, 47);

    restore(&world).await;
    put_many(&world, "new", 40).await;
    let roles = world.run_all();
    world.settle().await;
    world.all_hold().await;
    assert_eq!(applied_files(&world).await, 86, "every file that S3 has is applied");
    assert_eq!(duplicates(&world).await, 0, "each row came once in this life");
    assert_eq!(windows_of(&world, "2023-03-01").await, 0, "outputs of rows that are in no table");
    assert_eq!(passed_over(&world).await, (4_100, 41), "what the forgotten objects had sent");
    assert_eq!(lives(&world).await, ["made", "restored"], "noticed once");
    let epochs: Vec<i64> = world.column("SELECT DISTINCT epoch FROM pipeline.streams").await;
    assert_eq!(epochs, [2], "of all domains");
    let (code, said) = run(&world, "status").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("skipped: 4,100 rows of 41 files from another life"), "{said}");
    assert!(said.contains("life 2, begun"), "{said}");

    // A replay reads what the first life sent too, and changes nothing.
    let before: String = world.query("SELECT md5(string_agg(h::text, '' ORDER BY id)) FROM health_data h").await;
    let (code, said) = run(&world, "replay health --from beginning").await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        before,
        world.query::<String>("SELECT md5(string_agg(h::text, '' ORDER BY id)) FROM health_data h").await
    );
    for line in ["replay health --into shadow", "replay health --into shadow --swap --yes"] {
        let (code, said) = run(&world, line).await;
        assert_eq!(code, Some(0), "{line}: {said}");
    }
    world.tables_are_a_batch_load(|_, _| false).await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_promoted_without_its_last_transactions_under_running_roles_loses_nothing() {
    let world = World::with("promoted", |config| config.ingest.lease_ms = 2_000).await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(10)).await;
    put_many(&world, "kept", 5).await;
    world.settle().await;
    back_up(&world).await;
    put_many(&world, "lost", 30).await;
    world.settle().await;
    // Some of these are half-way when the connections are cut.
    put_many(&world, "between", 20).await;
    restore(&world).await;
    put_many(&world, "new", 20).await;
    world.settle().await;
    world.all_hold().await;
    assert_eq!(applied_files(&world).await, 76);
    assert_eq!(lives(&world).await, ["made", "restored"], "noticed once");
    let (rows, files) = passed_over(&world).await;
    assert!(rows >= 3_000 && (30..=50).contains(&files), "{rows} rows of {files} files");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_without_work_notice_that_postgres_went_back() {
    // Long enough for a backup between published and applied, on a busy machine too.
    let world = World::with("idle", |config| config.process.batch_age_ms_max = 10_000).await;
    let roles = world.run_all();
    world.put("health/first.csv", data::health(10, "2025-07-01", 10, 1)).await;
    world.settle().await;
    let owners =
        "SELECT string_agg(format('%s %s', owner, owner_epoch), ', ' ORDER BY partition) FROM pipeline.bookmarks
        WHERE domain = 'health'";
    let before: String = world.query(owners).await;
    world.put("health/second.csv", data::health(10, "2025-08-01", 10, 2)).await;
    let published =
        "SELECT EXISTS (SELECT FROM pipeline.objects WHERE key = 'health/second.csv' AND state = 'published')";
    world.until("the second file is published", published).await;
    back_up(&world).await;
    world.settle().await;
    assert_eq!(world.query::<String>(owners).await, before, "the same owners, under the same epochs");

    // No record comes after it that would show anything.
    restore(&world).await;
    assert_eq!(world.object("health/second.csv").await.state, "published");
    world.settle().await;
    assert_eq!(world.query::<i64>("SELECT count(*) FROM health_data").await, 200);
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_database_over_old_topics_takes_every_file_anew() {
    let world = World::new("anew").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(10)).await;
    put_many(&world, "old", 20).await;
    world.settle().await;
    roles.stop().await;
    let version = world.manifest().await.version;

    make_anew(&world).await;
    let findings = setup::prepare(&world.services, Mode::Make).await;
    let health = findings.iter().find(|finding| finding.name.ends_with("health")).expect("the topic");
    let messages = world.records("health").await.values().filter(|record| record.rows > 0).count();
    let holds = format!("holds {messages} messages of another ledger, whose rows will be skipped");
    assert!(health.said.contains(&holds), "{health}");
    let (code, said) = run(&world, "setup").await;
    assert_eq!(code, Some(0), "{said}");
    oracles::watch(&world).await;
    put_many(&world, "new", 20).await;
    let roles = world.run_all();
    world.settle().await;
    world.all_hold().await;
    assert_eq!(applied_files(&world).await, 41);
    assert_eq!((duplicates(&world).await, passed_over(&world).await), (0, (2_010, 21)));
    assert_eq!(lives(&world).await, ["made"], "another ledger's rows do not show that this one went back");
    assert!(world.manifest().await.version > version, "the outputs go on");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_half_published_file_goes_on_where_it_was() {
    let world = World::with("half", |config| {
        config.ingest.lease_ms = 2_000;
        config.ingest.chunk_bytes = 16 * 1024;
        // Slow enough to be found half-way on a busy machine.
        config.ingest.rows_per_second = 800;
    })
    .await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(12)).await;
    world.put("health/half.csv", data::health(12, "2024-01-01", 500, 3)).await;
    let half = "SELECT EXISTS (SELECT FROM pipeline.objects
        WHERE key = 'health/half.csv' AND state = 'publishing' AND resume_row > 0)";
    world.until("the file is half published", half).await;
    back_up(&world).await;
    world.settle().await;
    put_many(&world, "lost", 5).await;
    world.settle().await;
    roles.stop().await;
    restore(&world).await;
    let resumed: i64 = world.query("SELECT resume_row FROM pipeline.objects WHERE key = 'health/half.csv'").await;
    assert!((1..6_000).contains(&resumed), "{resumed}");
    let roles = world.run_all();
    world.settle().await;
    world.all_hold().await;
    assert_eq!(lives(&world).await, ["made", "restored"]);
    assert_eq!(passed_over(&world).await, (500, 5), "rows of the half-published file are its own in both lives");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_between_published_and_applied_is_no_restore_to_speak_of() {
    let world = World::new("unapplied").await;
    let listener = world.run(&[Role::Ingest]);
    world.put("locations/all.csv", data::locations(10)).await;
    put_many(&world, "kept", 3).await;
    let published = "SELECT count(*) = 4 FROM pipeline.objects WHERE state = 'published'";
    world.until("the files are published", published).await;
    back_up(&world).await;
    listener.stop().await;
    let roles = world.run_all();
    world.settle().await;
    roles.stop().await;
    restore(&world).await;
    let roles = world.run_all();
    world.settle().await;
    world.all_hold().await;
    assert_eq!((duplicates(&world).await, passed_over(&world).await), (0, (0, 0)));
    assert_eq!(lives(&world).await, ["made"], "the ledger has forgotten no file");
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_the_ledger_has_forgotten_does_not_come_back() {
    let world = World::new("forgotten").await;
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(3)).await;
    world.put("health/a.csv", data::health(3, "2025-06-01", 20, 5)).await;
    world.settle().await;
    world.next_second().await;
    world.put("health/b.csv", data::health(3, "2025-06-01", 20, 9)).await;
    world.settle().await;
    roles.stop().await;
    back_up(&world).await;
    let roles = world.run_all();
    let (code, said) = run(&world, "republish --object health/a.csv --as-new --yes").await;
    assert_eq!(code, Some(0), "{said}");
    world.settle().await;
    roles.stop().await;
    let from = "SELECT count(*) FROM health_data h JOIN pipeline.objects o ON o.id = h.src_object WHERE o.key = ";
    assert_eq!(world.query::<i64>(&format!("{from}'health/a.csv'")).await, 60);

    restore(&world).await;
    let roles = world.run_all();
    let noticed = "SELECT count(*) = 2 FROM pipeline.lives";
    world.until("the restore is noticed", noticed).await;
    world.settle().await;
    world.all_hold().await;
    assert_eq!(world.query::<i64>(&format!("{from}'health/b.csv'")).await, 60, "as the backup has it");
    assert_eq!(passed_over(&world).await, (60, 1));
    roles.stop().await;
}

/// The commands in the `text` blocks of a section of docs/restore.md, block by block.
fn commands_of(heading: &str) -> Vec<Vec<String>> {
    let page = include_str!("../../docs/restore.md");
    let (_, section) = page.split_once(heading).expect("the section is there");
    let section = section.split("\n## ").next().expect("a section");
    let blocks = section.split("```text\n").skip(1).map(|rest| rest.split("```").next().expect("an end"));
    blocks.map(|block| block.lines().map(str::to_owned).collect()).collect()
}

/// Runs commands as they stand there, with `freshet` and the settings of this world.
async fn run_documented(world: &World, commands: &[String]) -> String {
    let freshet = std::path::Path::new(env!("CARGO_BIN_EXE_freshet")).parent().expect("a folder").to_owned();
    let path = format!("{}:{}", freshet.display(), std::env::var("PATH").unwrap_or_default());
    let (script, variables) = (commands.join("\n"), world.variables());
    let url = world.database_url().to_owned();
    let admin_url = format!("{}/postgres", url.rsplit_once('/').expect("a database").0);
    let output = tokio::task::spawn_blocking(move || {
        let mut shell = Command::new("sh");
        shell.args(["-euc", &script]).current_dir(folder()).envs(variables);
        shell.env("PATH", path).env("DATABASE_URL", url).env("ADMIN_URL", admin_url).output().expect("run sh")
    });
    let output = output.await.expect("the commands end");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{commands:?}: {said}");
    said
}

/// How many messages the health topic has beyond the bookmarks: less than there are rows in them.
async fn ahead(world: &World) -> usize {
    let bookmarks = "SELECT next_offset FROM pipeline.bookmarks WHERE domain = 'health' ORDER BY partition";
    let bookmarks: Vec<i64> = world.column(bookmarks).await;
    let records = world.records("health").await;
    let is_ahead = |(partition, offset): &&(i32, i64)| bookmarks[*partition as usize] <= *offset;
    records.keys().filter(is_ahead).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_steps_bring_everything_back() {
    let mut world = World::new("documented").await;
    let [back_up, put_back, go_on, look] = &commands_of("## From a backup")[..] else { panic!("four blocks") };
    let roles = world.run_all();
    world.put("locations/all.csv", data::locations(10)).await;
    put_many(&world, "kept", 5).await;
    world.settle().await;
    run_documented(&world, back_up).await;
    put_many(&world, "lost", 10).await;
    world.settle().await;
    roles.stop().await;
    world.services.pool.close().await;
    run_documented(&world, put_back).await;

    // Without the command nothing that is behind what is published is published, and the message names it.
    world.services = Services::new(world.services.config.clone()).await.expect("services");
    let publication = world.publish().await;
    assert!(format!("{:?}", publication.outcome).contains("Refused"), "{publication:?}");
    let (code, said) = run(&world, "restored").await;
    assert_eq!(code, Some(1), "it asks first: {said}");
    assert!(
        said.contains("begins life 2") && said.contains(&format!("health: {} messages", ahead(&world).await)),
        "{said}"
    );
    assert_eq!(lives(&world).await, ["made"]);
    let said = run_documented(&world, go_on).await;
    assert!(said.contains("life 2 of the ledger has begun"), "{said}");

    let before = world.manifest().await.version;
    world.publish().await;
    assert!(world.manifest().await.version > before, "the outputs go on before a row is read");
    put_many(&world, "new", 10).await;
    let roles = world.run_all();
    let said = run_documented(&world, look).await;
    assert!(said.contains("skipped: 1,000 rows of 10 files"), "{said}");
    world.settle().await;
    world.all_hold().await;
    assert_eq!(applied_files(&world).await, 26);
    assert_eq!((duplicates(&world).await, lives(&world).await), (0, vec!["made".to_owned(), "by hand".to_owned()]));
    roles.stop().await;
}
