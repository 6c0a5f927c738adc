//! Files in the forms that programs write them in: what is no CSV is named with what to do, what a contract declares is read.

use aws_sdk_s3::primitives::ByteStream;
use freshet_topics::{Column, Domain, Instead, TextEncoding, domains};

use crate::harness::rules::Processors;
use crate::harness::{World, data};

fn utf_16(text: &str) -> Vec<u8> {
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_csv_is_rejected_with_what_it_is_and_what_to_do() {
    let world = World::new("foreign").await;
    let roles = world.run_all();
    let files: [(&str, Vec<u8>, &str); 7] = [
        (
            "health/book.csv",
            b"PK\x03\x04\x14\0\x06\0[Content_Types].xml".to_vec(),
            "Excel workbook: save it as CSV UTF-8",
        ),
        ("health/old-book.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec(), "Excel workbook: save it as CSV UTF-8"),
        ("health/table.csv", b"PAR1\x15\x04\x15\x10".to_vec(), "Parquet file: write it as CSV UTF-8"),
        ("health/error.csv", b"<!DOCTYPE html><html>502".to_vec(), "page of HTML"),
        ("health/list.csv", b"[{\"location_id\": 1}]".to_vec(), "JSON: write it as CSV UTF-8"),
        ("health/wide.csv", utf_16("location_id,date,dengue_cases\n1,2025-09-21,3\n"), "UTF-16: save it as CSV UTF-8"),
        ("health/tabs.csv", b"location_id\tdate\tdengue_cases\n1\t2025-09-21\t3\n".to_vec(), "separated by tabs"),
    ];
    for (key, bytes, _) in &files {
        world.put(key, bytes).await;
    }
    let waited = world.settle().await;
    assert_eq!((waited.rejected, waited.applied), (files.len() as u64, 0), "{waited}");
    for (key, _, reason) in &files {
        let said = world.object(key).await.reason.unwrap_or_default();
        assert!(said.contains(reason) && !said.contains('\n'), "{key}: {said}");
    }
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_is_read_by_its_first_bytes_by_the_stores_word_for_it_and_with_zeros_behind_it() {
    // A chunk is a part of a file, so that a reading goes on in the middle.
    let world = World::with("encoded", |config| config.ingest.chunk_bytes = 1024).await;
    let roles = world.run_all();
    let plain = data::health(3, "2025-01-01", 200, 7);
    let request =
        world.services.s3.put_object().bucket(world.raw_bucket()).key("health/told.csv").content_encoding("gzip");
    let answer = request.body(ByteStream::from(data::gzip(plain.as_bytes()).await)).send().await.expect("drop");
    world.was_dropped("health/told.csv", answer.e_tag().expect("an ETag"), plain.as_bytes());
    let other = data::health(3, "2025-08-01", 100, 8);
    let padded = [data::gzip(other.as_bytes()).await, vec![0; 512]].concat();
    world.put_packed("health/padded.csv.gz", padded, other.as_bytes()).await;
    // A plain name, and nobody says what it is.
    let named = data::hospital(3, "2025-01-01", 200, 9);
    world.put_packed("hospital/plain.csv", data::gzip(named.as_bytes()).await, named.as_bytes()).await;
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.rejected), (3, 0), "{waited}\n{:#?}", world.objects().await);
    world.all_hold().await;
    roles.stop().await;
}

/// The health feed as this sender writes it.
fn sent(delimiter: u8, encoding: TextEncoding) -> &'static Domain {
    let health = domains::by_name("health").expect("a domain");
    let column = |it: &Column| Column { decimal_comma: it.cast.is_number(), ..*it };
    let columns: Vec<Column> = health.columns.iter().map(column).collect();
    Box::leak(Box::new(Domain { columns: columns.leak(), delimiter, encoding, ..*health }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_says_how_its_files_are_written() {
    let text = "Location ID;Date;Dengue cases;Malaria cases;Ort\n1;2025-09-21;1.234;5,0;Köln\n2;2025-09-21;;\"7\";\"Genève; Ville\"\n";
    let western: Vec<u8> = text.chars().map(|it| u8::try_from(u32::from(it)).expect("of Windows-1252")).collect();
    let cases = [
        ("western", TextEncoding::Windows1252, western),
        ("wide", TextEncoding::Utf16Le, utf_16(text)),
        ("plain", TextEncoding::Utf8, text.as_bytes().to_vec()),
    ];
    for (name, encoding, bytes) in cases {
        let world = World::with(&format!("written-{name}"), |config| config.ingest.chunk_bytes = 1024).await;
        let roles = world.pipeline(sent(b';', encoding));
        world.put_packed("health/sent.csv", bytes, text.as_bytes()).await;
        world.applied().await;
        let object = world.object("health/sent.csv").await;
        assert_eq!(object.state, "applied", "{name}: {object:?}");
        let rows: Vec<String> = world
            .column(
                "SELECT concat_ws(' | ', location_id, date, dengue_cases, malaria_cases, extra)
                 FROM health_data ORDER BY location_id",
            )
            .await;
        let expected =
            [r#"1 | 2025-09-21 | 1234 | 5 | {"Ort": "Köln"}"#, r#"2 | 2025-09-21 | 7 | {"Ort": "Genève; Ville"}"#];
        assert_eq!(rows, expected, "{name}");
        roles.stop().await;
    }
}

/// Rows of a file that takes some seconds to publish.
const ROWS: i64 = 20_000;

/// Drops a file that is half published when its contract, `before`, becomes another one, `after`, which then has it.
async fn half_published(story: &str, file: String, before: Domain, after: Domain) -> (World, Processors) {
    let world = World::with(story, |config| {
        config.ingest.chunk_bytes = 8 << 10;
        config.ingest.rows_per_second = 5_000;
    })
    .await;
    let roles = world.pipeline(Box::leak(Box::new(before)));
    world.put("health/sent.csv", file).await;
    let half = "SELECT count(*) = 1 FROM pipeline.objects WHERE state = 'publishing' AND resume_row > 0";
    world.until("the file is half published", half).await;
    roles.stop().await;
    let left = "SELECT state = 'discovered' AND rows IS NULL FROM pipeline.objects";
    assert!(world.query::<bool>(left).await, "{:?}", world.object("health/sent.csv").await);
    let roles = world.pipeline(Box::leak(Box::new(after)));
    world.applied().await;
    (world, roles)
}

/// The same, and every row of it is as the later contract has it: `right`, as a condition in SQL.
async fn is_read_again(story: &str, file: String, before: Domain, after: Domain, right: &str) {
    let (world, roles) = half_published(story, file, before, after).await;
    let object = world.object("health/sent.csv").await;
    assert_eq!((object.state.as_str(), object.generation), ("applied", 2), "{object:?}");
    assert_eq!(world.query::<i64>(&format!("SELECT count(*) FROM health_data WHERE {right}")).await, ROWS);
    roles.stop().await;
}

/// The contract with its column `malaria_cases` replaced, or left away.
fn with_malaria(health: &Domain, change: impl Fn(&Column) -> Option<Column>) -> Domain {
    let columns = health.columns.iter().filter_map(|column| match column.name {
        "malaria_cases" => change(column),
        _ => Some(*column),
    });
    Domain { columns: columns.collect::<Vec<_>>().leak(), ..*health }
}

/// Its resume point counts characters of another encoding.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_half_published_when_its_contract_is_corrected_is_read_again_from_its_first_row() {
    let health = domains::by_name("health").expect("a domain");
    let rows: String = (1..=ROWS).map(|row| format!("{row},2025-01-01,5,Köln\n")).collect();
    let file = format!("location_id,date,dengue_cases,Ort\n{rows}");
    let read_as = |encoding| Domain { encoding, ..*health };
    let (before, after) = (read_as(TextEncoding::Windows1252), read_as(TextEncoding::Utf8));
    is_read_again("corrected", file, before, after, "extra->>'Ort' = 'Köln'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_half_published_when_its_contract_gets_a_column_has_it_in_every_row() {
    let health = domains::by_name("health").expect("a domain");
    let rows: String = (1..=ROWS).map(|row| format!("{row},2025-01-01,5,7\n")).collect();
    let file = format!("location_id,date,dengue_cases,malaria_cases\n{rows}");
    let (before, after) = (with_malaria(health, |_| None), with_malaria(health, |column| Some(*column)));
    is_read_again("one-more-column", file, before, after, "malaria_cases = 7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_half_published_when_its_contract_refuses_it_is_rejected_and_says_what_stays() {
    let health = domains::by_name("health").expect("a domain");
    let rows: String = (1..=ROWS).map(|row| format!("{row},2025-01-01,5\n")).collect();
    let file = format!("location_id,date,dengue_cases\n{rows}");
    let required = with_malaria(health, |column| Some(Column { absent: Instead::Reject, ..*column }));
    let (world, roles) = half_published("one-more-required", file, *health, required).await;
    let object = world.object("health/sent.csv").await;
    assert_eq!((object.state.as_str(), object.generation), ("rejected", 2), "{object:?}");
    let reason = object.reason.unwrap_or_default();
    assert!(reason.contains("malaria_cases") && reason.contains("were published, and stay"), "{reason}");
    roles.stop().await;
}

/// The listener is far faster than the lag allows.
#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_file_that_has_to_wait_for_its_processor_is_not_read_again_for_each_chunk() {
    let world = World::with("lagging", |config| {
        config.ingest.chunk_bytes = 8 << 10;
        config.ingest.lag_rows_max = 2_000;
    })
    .await;
    let roles = world.run_all();
    let rows: String = (0..60_000).map(|row| format!("{},2025-01-01,{row}\n", 1 + row)).collect();
    let text = format!("location_id,date,dengue_cases\n{rows}");
    world.put_packed("health/sent.csv.gz", data::gzip(text.as_bytes()).await, text.as_bytes()).await;
    world.settle().await;
    let claims = "SELECT lease_epoch FROM pipeline.objects WHERE key = 'health/sent.csv.gz'";
    assert_eq!(world.query::<i64>(claims).await, 1, "each further claim reads it from its start");
    world.all_hold().await;
    roles.stop().await;
}
