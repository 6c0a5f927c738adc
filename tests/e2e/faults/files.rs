//! Names that nobody chooses and files of sizes that nobody expects.

use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use axum::body::Bytes;
use axum::extract::Request;
use percent_encoding::percent_decode_str;

use freshet::roles::Role;
use freshet_topics::DOMAINS;

use crate::harness::http::within;
use crate::harness::proxy::{Fault, kind};
use crate::harness::{Process, World, data, folder};

/// 1,024 bytes, the most that S3 takes, of folders of 200.
fn long_key(letter: &str) -> String {
    let folder = format!("{}/", letter.repeat(200 / letter.len()));
    let mut key = "health/".to_owned();
    while key.len() + folder.len() + 5 < 1_024 {
        key.push_str(&folder);
    }
    format!("{key}{}.csv", "x".repeat(1_020 - key.len()))
}

/// Keys that S3 takes and the local store refuses or changes, with their spelling in a listing. They are there only for
/// whoever asks through the proxy.
const ONLY_S3_TAKES: [(&str, &str); 6] = [
    ("health/../up.csv", "health/../up.csv"),
    ("health/../../hospital/up.csv", "health/../../hospital/up.csv"),
    ("health/./here.csv", "health/./here.csv"),
    ("health//twice.csv", "health//twice.csv"),
    ("health/back\\slash.csv", "health/back%5Cslash.csv"),
    // No text of Postgres' holds this one.
    ("health/nul\0byte.csv", "health/nul%00byte.csv"),
];

fn made_up(at: usize) -> (String, String) {
    (data::health(1, "2024-01-01", 10 + at as u64, at as i32), format!("\"made-up-{at}\""))
}

/// Adds the keys to listings of what is theirs, and answers for them.
fn with_made_up_keys(raw_bucket: &str) -> impl Fn(&Request) -> Option<Fault> + Send + use<> {
    let entries: String = ONLY_S3_TAKES.iter().enumerate().fold(String::new(), |entries, (at, (_, escaped))| {
        let (text, etag) = made_up(at);
        let size = text.len();
        entries
            + &format!(
                "<Contents><Key>{escaped}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>{etag}</ETag>\
                 <Size>{size}</Size></Contents>"
            )
    });
    let bucket = format!("/{raw_bucket}/");
    move |request| {
        let path = percent_decode_str(request.uri().path()).decode_utf8().expect("UTF-8");
        let key = path.strip_prefix(&bucket)?;
        let query = request.uri().query().unwrap_or_default();
        if kind(request) == "list" {
            let is_theirs = !query.contains("prefix=") || query.split('&').any(|it| it == "prefix=health%2F");
            let entries = entries.clone();
            return is_theirs.then(|| {
                Fault::Edited(Arc::new(move |_, body| {
                    let text = String::from_utf8(body).expect("XML");
                    let (entered, end) = text.rsplit_once("</ListBucketResult>").expect("a listing");
                    format!("{entered}{entries}</ListBucketResult>{end}").into_bytes()
                }))
            });
        }
        let at = ONLY_S3_TAKES.iter().position(|(made_up, _)| *made_up == key)?;
        let (text, etag) = made_up(at);
        Some(Fault::Object(Bytes::from(text), etag))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_any_characters_and_length_is_loaded_and_named_on_one_line() {
    let (world, proxy) = World::behind_a_proxy("odd-keys", |_| ()).await;
    let keys: Vec<String> = [
        "health/new\nline.csv",
        "health/tab\tand\rreturn.csv",
        "health/\u{1b}[31mred.csv",
        "health/ blanks  within and around .csv ",
        "health/%2e%2e%2fescaped.csv",
        "health/100%.csv",
        "health/%zz+%20.csv",
        "health/?versions&prefix=x#y.csv",
        "health/प्रदेश/ü😀\u{301}.csv",
        "health/\u{202e}vsc.txt.csv",
        "health/<Key>&amp;</Key>.csv",
        "health/quote'\"$(id)`id`;--.csv",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain(["a", "ü", "%"].map(long_key))
    .collect();
    assert!(keys[keys.len() - 3..].iter().all(|key| key.len() == 1_024));
    world.put("locations/all.csv", data::locations(1)).await;
    for (at, key) in keys.iter().enumerate() {
        world.put(key, data::health(1, "2025-01-01", 10 + at as u64, at as i32)).await;
    }
    world.put("health/broken\nand\u{1b}[31mred.csv", "location_id,date\n\"").await;
    proxy.break_by(with_made_up_keys(world.raw_bucket()));
    for (at, (key, _)) in ONLY_S3_TAKES.iter().enumerate().filter(|(_, (key, _))| !key.contains('\0')) {
        let (text, etag) = made_up(at);
        world.was_dropped(key, &etag, text.as_bytes());
    }
    let listener = world.spawn(&["ingest"]);
    let others = world.run(&DOMAINS.iter().map(|it| Role::Process(it)).chain([Role::Metrics]).collect::<Vec<_>>());
    let waited = world.settle().await;
    // A part that begins with a point is a hidden name, and no data.
    let hidden = ONLY_S3_TAKES.iter().filter(|(key, _)| key.contains("/.")).count();
    let expected = keys.len() + ONLY_S3_TAKES.len() - hidden - 1 + 1;
    assert_eq!((waited.applied, waited.rejected), (expected as u64, 1), "{waited}");
    let names: Vec<String> = world.objects().await.into_iter().map(|object| object.key).collect();
    for key in &keys {
        assert!(names.contains(key), "{key:?} is not in the ledger under its own name");
    }
    world.all_hold().await;

    // What people read has a line for each.
    let log = listener.log();
    assert!(log.contains("nul%00byte.csv"), "the key that cannot be kept is told:\n{log}");
    assert!(log.contains(r"broken\nand\u{1b}[31mred.csv"), "{log}");
    assert!(!log.contains('\u{1b}') && log.lines().all(|line| line.starts_with("20")), "{log}");
    let mut status = world.spawn(&["status", "--files"]);
    assert_eq!(status.ended(Duration::from_secs(30)).await, Some(0), "{}", status.log());
    let said = status.log();
    assert!(said.contains("health/new line.csv") && !said.contains('\u{1b}'), "{said}");
    drop(listener);
    others.stop().await;
}

/// A listener alone, of which the memory is looked at.
async fn ends_rejected(world: &World, listener: &Process, key: &str) -> String {
    let ended = format!("SELECT count(*) = 1 FROM pipeline.objects WHERE key = '{key}' AND state = 'rejected'");
    world.until("the file is rejected", &ended).await;
    println!("{key}: {} MiB resident at most", listener.resident_mib_max());
    world.object(key).await.reason.expect("a reason")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_of_100_mb_rejects_its_file_and_costs_little_memory() {
    const CELL_BYTES: usize = 100 << 20;
    const MIB_MAX: u64 = 200;
    let world = World::new("huge-cell").await;
    let listener = world.spawn(&["ingest"]);
    let others = world.run(&DOMAINS.iter().map(|it| Role::Process(it)).chain([Role::Metrics]).collect::<Vec<_>>());
    let good = data::health(4, "2025-01-01", 20, 1);
    world.put("locations/all.csv", data::locations(4)).await;
    let cell = "7".repeat(CELL_BYTES);
    // Each line of it is too long for a cell: the reading goes on behind the one on which the quote opened.
    let quoted = format!("{}\n", "a".repeat(1 << 20)).repeat(CELL_BYTES >> 20);
    for (key, content, expected) in [
        ("health/plain.csv", format!("{good}1,2025-03-01,{cell},1,1,1,false\n"), "longer than"),
        ("health/quoted.csv", format!("{good}1,2025-03-01,\"{quoted}\",1,1,1,false\n"), "longer than"),
        ("health/header.csv", format!("{cell},{good}"), "longer than"),
        ("health/never-closed.csv", format!("{good}1,2025-03-01,\"{quoted}"), "longer than"),
    ] {
        world.put(key, content).await;
        let reason = ends_rejected(&world, &listener, key).await;
        assert!(reason.contains(expected) && reason.len() < 1_000, "{key}: {reason}");
    }
    // A quote that is never closed on such a line costs that line.
    world.put("health/stray.csv", format!("{good}1,2025-03-01,\"{cell}")).await;
    // A good one beside them is loaded, and memory was bounded all along.
    world.put("health/good.csv", good).await;
    world.settle().await;
    assert_eq!(world.object("health/good.csv").await.state, "applied");
    assert_eq!(world.object("health/stray.csv").await.state, "applied");
    let strays: Vec<String> = world.column("SELECT concat_ws(' ', rule, line) FROM pipeline.rejects").await;
    assert_eq!(strays, ["stray_quote 82"]);
    world.all_hold().await;
    let mib = listener.resident_mib_max();
    assert!(mib < MIB_MAX, "{mib} MiB resident");
    assert_eq!(listener.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}

/// A file that no memory holds: rows of about a KiB, most of it a column that nobody reads, over a hundred thousand keys
/// again and again.
struct Huge {
    rows: u64,
}

impl Huge {
    const BYTES: u64 = 5 << 30;
    const LOCATIONS: u64 = 1_000;
    const DAYS: u64 = 100;
    const PART_BYTES: usize = 64 << 20;

    fn row(number: u64, to: &mut String) {
        let location = number % Huge::LOCATIONS + 1;
        let date = data::date("2025-01-01") + chrono::Days::new(number / Huge::LOCATIONS % Huge::DAYS);
        let round = number / (Huge::LOCATIONS * Huge::DAYS);
        _ = writeln!(to, "{location},{date},{round},1,2,3,false,{number:0>980}");
    }

    /// Uploads it part by part, as it is made.
    async fn upload(world: &World, key: &str) -> Huge {
        let (s3, bucket) = (&world.services.s3, world.raw_bucket());
        let created = s3.create_multipart_upload().bucket(bucket).key(key).send().await.expect("begin the upload");
        let upload = created.upload_id().expect("an upload");
        let mut part =
            "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases,is_projected,note\n"
                .to_owned();
        let (mut rows, mut bytes, mut parts) = (0, 0, Vec::new());
        while bytes < Huge::BYTES {
            while part.len() < Huge::PART_BYTES {
                Huge::row(rows, &mut part);
                rows += 1;
            }
            bytes += part.len() as u64;
            let number = parts.len() as i32 + 1;
            let body = ByteStream::from(std::mem::take(&mut part).into_bytes());
            let sent = s3.upload_part().bucket(bucket).key(key).upload_id(upload).part_number(number).body(body);
            let sent = sent.send().await.expect("send a part");
            parts.push(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = s3.complete_multipart_upload().bucket(bucket).key(key).upload_id(upload).multipart_upload(parts);
        complete.send().await.expect("complete the upload");
        Huge { rows }
    }
}

/// Free bytes where the stack of the tests keeps its data.
fn free_bytes() -> u64 {
    let asked = Command::new("df").args(["--output=avail", "-B1"]).arg(folder()).output().expect("run df");
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    said.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make faults"]
async fn a_file_of_5_gb_killed_at_half_goes_on_within_a_chunk_and_in_little_memory() {
    const NEEDED_BYTES: u64 = 15 << 30;
    const MIB_MAX: u64 = 300;
    const ROW_BYTES: u64 = 1_000;
    const LIMIT: Duration = Duration::from_secs(20 * 60);
    let free = free_bytes();
    if free < NEEDED_BYTES {
        println!("skipped: {free} bytes are free, and it takes {NEEDED_BYTES}");
        return;
    }
    let world = World::with("five-gb", |config| config.ingest.lease_ms = 3_000).await;
    world.put("locations/all.csv", data::locations(Huge::LOCATIONS as i32)).await;
    let huge = Huge::upload(&world, "health/huge.csv").await;
    println!("{} rows are uploaded", huge.rows);
    // Nothing is applied yet, so that the pace is the listener's own.
    let unhindered = [("FRESHET__INGEST__LAG_MESSAGES_MAX", "100000000".to_owned())];
    let listener = world.spawn_with(&["ingest"], &unhindered);
    let half = format!("SELECT count(*) = 1 FROM pipeline.objects WHERE resume_byte > {}", Huge::BYTES / 2);
    within(LIMIT, "half is published", async || world.query::<bool>(&half).await.then_some(())).await;
    let first = listener.resident_mib_max();
    listener.kill();
    let listener = world.spawn_with(&["ingest"], &unhindered);
    let published = "SELECT count(*) = 1 FROM pipeline.objects WHERE domain = 'health' AND state = 'published'";
    within(LIMIT, "all is published", async || world.query::<bool>(published).await.then_some(())).await;
    let second = listener.resident_mib_max();
    println!("resident: {first} MiB before the kill, {second} MiB after");
    assert!(first.max(second) < MIB_MAX, "{first} and {second} MiB resident");

    let others = world.run(&DOMAINS.iter().map(|it| Role::Process(it)).chain([Role::Metrics]).collect::<Vec<_>>());
    let applied = "SELECT count(*) = 1 FROM pipeline.objects WHERE domain = 'health' AND state = 'applied'";
    within(LIMIT, "all is applied", async || world.query::<bool>(applied).await.then_some(())).await;
    world.settle().await;
    let duplicates: i64 =
        world.query("SELECT sum(duplicate)::bigint FROM pipeline.progress WHERE domain = 'health'").await;
    let again = duplicates as u64 * ROW_BYTES;
    println!("{duplicates} rows were sent again");
    let chunk = world.services.config.ingest.chunk_bytes as u64 + (256 << 10) + 2 * ROW_BYTES;
    assert!(again <= chunk, "{again} bytes were sent again");
    // The oracle that loads files itself would need all of it in memory; the rows are such that each table row is known.
    let counted: String = world
        .query(
            "SELECT (sum(test.length(received)), sum(applied + stale + rejected), sum(rejected))::text
             FROM pipeline.progress WHERE domain = 'health'",
        )
        .await;
    assert_eq!(counted, format!("({0},{0},0)", huge.rows), "each row once");
    let keys = Huge::LOCATIONS * Huge::DAYS;
    let (rounds, rest) = (huge.rows / keys, huge.rows % keys);
    let last: String = world
        .query("SELECT (count(*), sum(dengue_cases), sum(malaria_cases + heatstroke_cases))::text FROM health_data")
        .await;
    assert_eq!(last, format!("({keys},{},{})", (rounds - 1) * keys + rest, 3 * keys), "the last row of each key");
    world.bookmarks_tile().await;
    world.outputs_follow_the_tables().await;
    assert_eq!(listener.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}
