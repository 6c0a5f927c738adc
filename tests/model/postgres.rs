//! Histories of the model, taken step by step on a real Postgres.
//!
//! S3 and Kafka stay the model's; every transaction is the program's own. After each step all that Postgres holds is
//! compared with what the model says that it holds. So what the model does by hand (the guards and the order that the
//! program leaves to SQL) is held to the program.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use freshet::local::{LocalStack, Options};
use freshet_sinks::apply::refusals::Refusals;
use freshet_sinks::apply::upsert::Upsert;
use freshet_sinks::apply::{self, Origin, Rows};
use freshet_sinks::backoff::Backoff;
use freshet_sinks::bookmarks::adopt::{Adopting, adopt};
use freshet_sinks::bookmarks::{self, streams};
use freshet_sinks::destination::Destination;
use freshet_sinks::ledger::register::register;
use freshet_sinks::ledger::{self, Claim, Claimant, Object, ObjectVersion, OpenDomain, Selection, Take};
use freshet_sinks::lives;
use freshet_sinks::tables::{self, Identity, Setup};
use freshet_topics::cells::Cells;
use freshet_topics::message::RawText;
use freshet_topics::{Cell, DOMAINS, Domain, Provenance, RawRow, domains, judge, stream};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::database::{Batch, DOMAIN, Database, numbering};
use crate::faults::{Budget, Fault, Mutation};
use crate::possible::Action;
use crate::properties::{at_every_moment, at_rest};
use crate::scenarios::two_files;
use crate::world::{Scenario, Stage, World};

/// Random histories that are taken.
const WALKS: u64 = 30;
const NO_WAIT: Backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
const LEASE: Duration = Duration::from_secs(600);

/// The server, and what its databases are called.
struct Server {
    url: String,
    databases: u32,
}

impl Server {
    async fn admin(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("connect to Postgres")
    }

    fn url_of(&self, name: &str) -> String {
        format!("{}/{name}", self.url.rsplit_once('/').expect("a database").0)
    }

    /// A database that is a copy of another.
    async fn copy(&mut self, of: &str) -> String {
        self.databases += 1;
        let name = format!("history_{}", self.databases);
        let sql = format!("CREATE DATABASE {name} TEMPLATE {of}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.admin().await).await.expect("copy a database");
        name
    }

    async fn drop(&mut self, name: &str) {
        let sql = format!("DROP DATABASE {name}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.admin().await).await.expect("drop a database");
    }
}

/// A real Postgres beside the model's.
struct Twin {
    name: String,
    pool: PgPool,
    backup: Option<String>,
    /// The model's nonces and the real ones.
    nonces: BTreeMap<Uuid, Uuid>,
    /// What the listeners have claimed.
    claims: Vec<Option<Claim>>,
    /// Marks that a publisher has seen.
    marks: Vec<Vec<i64>>,
    upsert: Upsert,
}

fn health() -> &'static Domain {
    domains::by_name(DOMAIN).expect("a domain")
}

impl Twin {
    async fn new(server: &mut Server, scenario: &Scenario) -> Twin {
        let name = server.copy("migrated").await;
        let pool = PgPool::connect(&server.url_of(&name)).await.expect("connect");
        Twin {
            name,
            pool,
            backup: None,
            nonces: BTreeMap::new(),
            claims: vec![None; scenario.listeners],
            marks: vec![Vec::new(); scenario.publishers],
            upsert: Upsert::new(health(), Destination::Live),
        }
    }

    async fn end(self, server: &mut Server) {
        self.pool.close().await;
        server.drop(&self.name).await;
        if let Some(backup) = self.backup {
            server.drop(&backup).await;
        }
    }

    /// Does in Postgres what `action` does between the two worlds.
    async fn step(&mut self, server: &mut Server, scenario: &Scenario, before: &World, after: &World, action: Action) {
        match action {
            Action::Register(key) => self.register(scenario.version(before.bucket[key])).await,
            Action::Claim(listener) => self.claim(before, after, listener).await,
            Action::Record(listener) => self.record(scenario, before, listener).await,
            Action::LeaseEnds(id) | Action::LeaseRunsOut(id) => {
                let sql = "UPDATE pipeline.objects SET lease_from = now() - interval '2 s', lease_until = now() - interval '1 s',
                    wait_from = now() - interval '2 s', next_attempt_at = now() - interval '1 s' WHERE id = $1";
                sqlx::query(sql).bind(id).execute(&self.pool).await.expect("end a lease");
            }
            Action::CrashListener(listener) | Action::CrashMidChunk(listener) => self.claims[listener] = None,
            Action::Sweep => {
                let truncated = |object: &Object| before.database.is_truncated(object, &before.topic, None);
                let swept = ledger::sweep(&self.pool, health(), NO_WAIT, truncated).await.expect("sweep");
                assert!(swept.failure.is_none(), "{swept:?}");
                ledger::name_late_rows(&self.pool, DOMAIN).await.expect("name late rows");
            }
            Action::Take(_, partition) | Action::Rebalance(_, partition) => self.take(before, after, partition).await,
            Action::Apply(processor) | Action::CommitLost(processor) => {
                let batch = before.processors[processor].batch.clone().expect("a batch");
                self.apply(&batch, after.processors[processor].owned.contains_key(&batch.partition)).await;
            }
            Action::Derive(publisher) => {
                let marks = sqlx::query_scalar("SELECT id FROM pipeline.marks").fetch_all(&self.pool).await;
                self.marks[publisher] = marks.expect("read the marks");
            }
            Action::DeleteMarks(publisher) => {
                let sql = "DELETE FROM pipeline.marks WHERE id = ANY ($1)";
                sqlx::query(sql).bind(&self.marks[publisher]).execute(&self.pool).await.expect("delete marks");
            }
            Action::Adopt => self.adopt(before, after).await,
            Action::SetToEnd(partition) => {
                let high = before.topic.partitions[partition as usize].high();
                bookmarks::set::set(&self.pool, DOMAIN, &[(partition, high)]).await.expect("set a bookmark");
            }
            Action::Restored => _ = lives::begin(&self.pool, &DOMAINS).await.expect("begin a life"),
            Action::SendAgain(id) => {
                let object = self.object(id).await;
                ledger::send_again(&self.pool, &[object]).await.expect("send again");
            }
            Action::SendAsNew(id) => {
                let object = self.object(id).await;
                ledger::send_as_new(&self.pool, &[object]).await.expect("send as new");
            }
            Action::Backup => {
                self.pool.close().await;
                self.backup = Some(server.copy(&self.name).await);
                self.pool = PgPool::connect(&server.url_of(&self.name)).await.expect("connect");
            }
            Action::Restore => {
                self.pool.close().await;
                server.drop(&self.name).await;
                self.name = self.backup.take().expect("a backup");
                self.pool = PgPool::connect(&server.url_of(&self.name)).await.expect("connect");
            }
            // Nothing of these is in Postgres.
            Action::Put
            | Action::Ask(_)
            | Action::Send(_)
            | Action::Rejoin(..)
            | Action::Read(..)
            | Action::ReadPointer(_)
            | Action::Swap(_)
            | Action::Resolve(_)
            | Action::WriteStreamRecord(_)
            | Action::Deliver(_)
            | Action::CrashProcessor(_)
            | Action::CrashPublisher(_)
            | Action::AckLost(_)
            | Action::Delay(_)
            | Action::Duplicate(_)
            | Action::PutLost(_)
            | Action::ForeignAnswer(_)
            | Action::Retention(_)
            | Action::LogCut(_)
            | Action::MakeTopicAgain
            | Action::Delete(_) => {}
            // They read from Kafka: `tests/e2e` has them.
            Action::Replay | Action::FillShadow | Action::SwapShadow => unreachable!("no budget for it"),
        }
    }

    async fn objects(&self) -> Vec<Object> {
        let mut all = ledger::select(&self.pool, "raw", &Selection::default()).await.expect("read the ledger");
        all.sort_by_key(|object| object.id);
        all
    }

    async fn object(&self, id: i64) -> Object {
        self.objects().await.into_iter().find(|object| object.id == id).expect("it is registered")
    }

    async fn register(&mut self, version: ObjectVersion) {
        let held = |_| async { Ok::<_, std::convert::Infallible>(vec![version.clone()]) };
        register(&self.pool, "raw", DOMAIN, std::slice::from_ref(&version.key), None, held).await.expect("register");
    }

    async fn claim(&mut self, before: &World, after: &World, listener: usize) {
        self.bind(before).await;
        let partitions = after.listeners[listener].as_ref().map_or(1, |work| work.open.partitions);
        let claimant = Claimant { owner: "listener", lease: LEASE, back_off: NO_WAIT };
        let open = OpenDomain { name: DOMAIN, numbering: numbering(partitions), tried: OpenDomain::NONE_TRIED };
        let claimed = ledger::claim(&self.pool, claimant, &[open], Take::ONE).await.expect("claim").pop();
        let expected = after.listeners[listener].as_ref().map(|work| self.translated(&work.claim));
        assert_eq!(claimed, expected, "claimed");
        self.claims[listener] = claimed;
    }

    fn translated(&self, claim: &Claim) -> Claim {
        let mut claim = claim.clone();
        claim.object.nonce = self.real(claim.object.nonce);
        claim
    }

    fn real(&self, nonce: Uuid) -> Uuid {
        self.nonces.get(&nonce).copied().unwrap_or(nonce)
    }

    async fn record(&mut self, scenario: &Scenario, before: &World, listener: usize) {
        let work = before.listeners[listener].as_ref().expect("it works");
        let Stage::Recording(verdict) = &work.stage else { unreachable!() };
        let content = scenario.described(scenario.content_of(&work.claim.object.version));
        let claim = self.claims[listener].as_mut().expect("it has claimed");
        match verdict.event(work.open, &content) {
            Some(event) => _ = ledger::record(&self.pool, claim, event).await.expect("record"),
            // Copies are woken apart only with a rule taken out.
            None => _ = ledger::record_gone(&self.pool, claim, "gone".into()).await.expect("give up"),
        }
    }

    async fn bind(&self, world: &World) {
        let found = stream::stream_of(&world.topic.firsts());
        streams::bind(&self.pool, DOMAIN, "topic", found).await.expect("bind");
    }

    async fn take(&self, before: &World, after: &World, partition: i32) {
        self.bind(before).await;
        let Some((stream, _)) = after.database.stream else { return };
        let low = before.topic.partitions[partition as usize].low;
        let assigned =
            bookmarks::take(&self.pool, Destination::Live, DOMAIN, stream, "processor", &[(partition, low)]).await;
        let epoch = assigned.expect("take a bookmark")[0].epoch;
        let reason = after.database.bookmarks[&partition].halted.map(|_| "halted");
        bookmarks::set_halted(&self.pool, DOMAIN, partition, epoch, reason).await.expect("say that it is halted");
    }

    async fn apply(&self, batch: &Batch, is_kept: bool) {
        let (mut cells, mut origins) = (Cells::of(health()), Vec::new());
        for (offset, row) in &batch.rows {
            let provenance = Provenance { nonce: self.real(row.nonce), ..row.provenance() };
            origins.push(Origin { partition: batch.partition, offset: *offset, provenance, raw: RawText::default() });
            cells.push(&raw_row(row.key, row.content));
        }
        let rows = Rows { origins, judged: judge::columns(health(), &cells) };
        let batch = apply::Batch { bookmarks: vec![batch.bookmark_move()], rows };
        let mut connection = self.pool.acquire().await.expect("a connection");
        // Every other batch is thought to be new, whether it is or not.
        let by_copy = batch.bookmarks[0].next % 2 == 0;
        let applied = apply::apply(&mut connection, &self.upsert, "topic", &batch, &Refusals::default(), by_copy).await;
        assert_eq!(applied.is_ok(), is_kept, "{applied:?}");
    }

    async fn adopt(&self, before: &World, after: &World) {
        let known = before.database.stream.map(|(stream, _)| stream);
        let adoption = stream::adopt(&before.topic.firsts(), known);
        let adopting = Adopting {
            topic: "topic",
            stream_id: after.database.stream.expect("it is bound").0,
            is_known_log: adoption.is_known_log,
            partitions: &before.topic.logs(),
        };
        adopt(&self.pool, DOMAIN, &adopting).await.expect("adopt");
    }

    /// Compares all that Postgres holds with what the model says.
    async fn compare(&mut self, model: &Database) {
        let found = self.objects().await;
        for (one, real) in model.objects.iter().zip(&found) {
            self.nonces.insert(one.object.nonce, real.nonce);
        }
        let expected: Vec<Object> = model
            .objects
            .iter()
            .map(|one| Object { nonce: self.real(one.object.nonce), ..(*one.object).clone() })
            .collect();
        assert_eq!(found, expected, "the ledger");
        let bookmarks: Vec<(i32, i64, i64, Uuid, bool, Option<String>)> = sqlx::query_as(
            "SELECT partition, next_offset, owner_epoch, stream_id, halted IS NOT NULL, accepted_beginning
             FROM pipeline.bookmarks ORDER BY partition",
        )
        .fetch_all(&self.pool)
        .await
        .expect("read the bookmarks");
        let expected = model.bookmarks.iter();
        let expected = expected
            .map(|(partition, it)| (*partition, it.next, it.epoch, it.stream, it.halted.is_some(), it.accepted.clone()))
            .collect::<Vec<_>>();
        assert_eq!(bookmarks, expected, "the bookmarks");
        let stream: Option<(Uuid, i64)> = sqlx::query_as("SELECT stream_id, epoch FROM pipeline.streams")
            .fetch_optional(&self.pool)
            .await
            .expect("read");
        assert_eq!(stream, model.stream, "the stream");
        let progress: Vec<(i64, i32, i32, String, i64)> = sqlx::query_as(
            "SELECT object, generation, partition, received::text, (applied + stale)::bigint
             FROM pipeline.progress ORDER BY object, generation, partition",
        )
        .fetch_all(&self.pool)
        .await
        .expect("read the progress");
        let expected = model.live.received.iter().filter(|(_, set)| !set.is_empty());
        let expected = expected
            .map(|(part, set)| {
                (part.object, part.generation, part.partition, set.to_string(), model.live.counted[part])
            })
            .collect::<Vec<_>>();
        assert_eq!(progress, expected, "the progress");
        let rows: Vec<(i32, i32, i64, i64, i32, i64)> = sqlx::query_as(
            "SELECT location_id, dengue_cases, src_object, src_ord, src_gen, src_row FROM health_data ORDER BY location_id",
        )
        .fetch_all(&self.pool)
        .await
        .expect("read the table");
        let expected = model.live.rows.iter();
        let expected = expected
            .map(|(key, it)| {
                (i32::from(*key), it.content as i32, it.object, it.order.src_ord, it.order.generation, it.order.row)
            })
            .collect::<Vec<_>>();
        assert_eq!(rows, expected, "the table");
        let (lives, marks): (i64, i64) =
            sqlx::query_as("SELECT (SELECT count(*) FROM pipeline.lives), (SELECT count(*) FROM pipeline.marks)")
                .fetch_one(&self.pool)
                .await
                .expect("count");
        assert_eq!(lives as usize, model.lives.len(), "the lives");
        // Where nothing is in the table, a new life marks nothing.
        assert!(model.marks.is_empty() || marks > 0 || model.live.rows.is_empty(), "what changed is not marked");
    }
}

/// A row of the domain that says no more than its key and content.
fn raw_row(key: u8, content: usize) -> RawRow<'static> {
    let cell = |name: &str| match name {
        "location_id" => Cell::Text(key.to_string().into()),
        "date" => Cell::Text("2025-08-01".into()),
        "dengue_cases" => Cell::Text(content.to_string().into()),
        _ => Cell::Absent,
    };
    let cells = health().columns.iter().map(|column| cell(column.name)).collect();
    RawRow { cells, extra: Vec::new(), new_cells: BTreeMap::new(), stray_quote: None, overtaken: 0 }
}

/// Takes a history on both, and what is left to do after it. A step that is not possible (the history was found with a
/// rule taken out) is left out.
async fn replay(server: &mut Server, scenario: &Scenario, history: &[Action]) -> usize {
    let mut twin = Twin::new(server, scenario).await;
    let mut world = World::of(scenario);
    let mut taken = Vec::new();
    let mut planned = history.iter().copied();
    loop {
        let (steps, faults) = (world.steps(scenario), world.faults(scenario));
        let next = match planned.next() {
            Some(action) if steps.contains(&action) || faults.contains(&action) => action,
            Some(_) => continue,
            None => match steps.first() {
                Some(action) => *action,
                None => break,
            },
        };
        let after = world.after(scenario, next);
        taken.push(next);
        twin.step(server, scenario, &world, &after, next).await;
        let compared = std::panic::AssertUnwindSafe(twin.compare(&after.database));
        if let Err(panic) = futures::FutureExt::catch_unwind(compared).await {
            println!("model and Postgres part after {taken:#?}");
            std::panic::resume_unwind(panic);
        }
        assert_eq!(at_every_moment(scenario, &after), None, "after {taken:?}");
        world = after;
    }
    assert_eq!(at_rest(scenario, &world), None, "after {taken:?}");
    twin.end(server).await;
    taken.len()
}

/// A world whose every step is one of Postgres, S3's pointer or the model's own.
fn large() -> Scenario {
    let of = |fault: &Fault| (*fault, if matches!(fault, Fault::Replay | Fault::Shadow) { 0 } else { 1 });
    let faults: Vec<(Fault, u8)> = Fault::ALL.iter().map(of).collect();
    Scenario {
        puts: vec![
            ("health/a.csv", 0, 100),
            ("health/b.csv", 1, 100),
            ("health/a.csv", 2, 100),
            ("health/a.csv", 0, 101),
        ],
        contents: vec![vec![0, 1, 2], vec![2, 3, 2], vec![0, 4]],
        partitions: 2,
        listeners: 3,
        reads_in_parts: true,
        budget: Budget::of(&faults),
        ..two_files("postgres", &[])
    }
}

/// A folder that Postgres' own user can enter, deleted in the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[tokio::test]
async fn histories_of_the_model_come_to_the_same_on_a_real_postgres() {
    let folder = Folder(std::env::temp_dir().join(format!("freshet-model-{}", std::process::id())));
    let options = Options { data_dir: folder.0.clone(), kafka: false, postgres: true, s3: false, tell_to: None };
    let stack = LocalStack::start(options, |_| ()).await.expect("start Postgres");
    let mut server = Server { url: stack.endpoints().database_url.clone().expect("Postgres runs"), databases: 0 };
    let create = sqlx::raw_sql("CREATE DATABASE migrated").execute(&mut server.admin().await).await;
    create.expect("create a database");
    let pool = PgPool::connect(&server.url_of("migrated")).await.expect("connect");
    let pipeline = Identity { name: "model", hash: "model" };
    tables::apply(
        &pool,
        &Setup { schema: "public", domains: &DOMAINS, outputs: &[], pipeline, allowed_lateness_days: 7 },
    )
    .await
    .expect("migrate");
    pool.close().await;

    // What is found with a rule taken out, on the program, which has it.
    for mutation in crate::mutations::ALL {
        if matches!(mutation, Mutation::SwapNewestReadingOnly) {
            continue;
        }
        let (scenario, history) = crate::mutations::found(mutation);
        let steps = replay(&mut server, &scenario, &history).await;
        println!("{mutation:?}: {steps} steps");
    }
    let first = crate::walks::number("FRESHET_MODEL_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let scenario = large();
    let mut steps = 0;
    for seed in first..first + WALKS {
        println!("walk {seed}");
        let (wrong, history, _) = crate::walks::walk(&scenario, seed);
        assert_eq!(wrong, None, "{history:?}");
        steps += replay(&mut server, &scenario, &history).await;
    }
    println!("{WALKS} walks, {steps} steps");
}
