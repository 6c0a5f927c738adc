//! What comes from Kafka, from the store's events, and from whoever writes a contract.

use freshet_ingest::events;
use freshet_topics::message::packed::{Head, Pack};
use freshet_topics::{Cell, DOMAINS, Domain, Pipeline, Provenance, RawRow};
use rdkafka::message::{Header, OwnedHeaders};

use crate::driver::fuzz;

#[test]
fn a_message_that_is_read_is_written_as_it_was() {
    let samples: [&[u8]; 4] = [
        br#"{"id":"7","name":"Goa","type":null,"population":"","_extra":["beyond"]}"#,
        br#"{"location_id":"7","date":"2025-09-21","_new":{"note":"a \"b\"","":"x"}}"#,
        br#"{"colour":{"deep":[1,{"x":null}]},"name":"\u00e9\ud83d\ude00","id":"7"}"#,
        b"{}",
    ];
    let words: [&[u8]; 8] =
        [br#""_extra":["#, br#""_new":{"#, b"null", b"\\u0000", b"\"", b"[[[[[[[[", b"1e999", br#","id":"2""#];
    fuzz(&samples, &words, |input, _| {
        for domain in DOMAINS {
            let Ok(row) = RawRow::decode(domain, input) else { continue };
            assert_eq!(row.cells.len(), domain.columns.len());
            let mut buffer = Vec::new();
            row.encode(domain, &mut buffer);
            assert_eq!(RawRow::decode(domain, &buffer).expect("as it was written"), row);
        }
    });
}

/// A packed message: columns and number of rows in its first line, as its headers have them, and then its value.
#[test]
fn a_packed_message_that_is_read_is_written_as_it_was() {
    let samples: [&[u8]; 4] = [
        b"id,name,type 2\n[0,2,\"7\",\"Goa\",\"\"]\n[3,9,\"8\",null,null,{\"_extra\":[\"beyond\"]}]",
        b"location_id,date 2\n[0,2,\"7\",\"a \\\"b\\\"\",{\"_overtaken\":7}]\n[1,3,{\"_stray_quote\":\"8,\\\"x\"}]",
        b"location_id,colour,date 1\n[0,2,\"\\u00e9\\ud83d\\ude00\",\"red\",\"\",{\"_new\":{\"note\":\"x\"},\"_later\":{\"deep\":[1]}}]",
        b" 1\n[0,2]",
    ];
    let words: [&[u8]; 12] = [
        b"\n",
        b"[1,2,",
        b",null",
        b",\"x\"",
        b"{\"_extra\":[",
        b"{\"_new\":{",
        b"\\u0000",
        b"\\",
        b"\"",
        b"]",
        b"9223372036854775807",
        b",,",
    ];
    fuzz(&samples, &words, |input, _| {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
        let (head, value) = (&input[..end], &input[end + 1..]);
        let Some(space) = head.iter().position(|byte| *byte == b' ') else { return };
        let (columns, rows) = (&head[..space], &head[space + 1..]);
        for domain in DOMAINS {
            let Some(found) = unpacked(domain, columns, rows, value) else { continue };
            assert!(!found.is_empty());
            let mut pack = Pack::default();
            found.iter().for_each(|(provenance, row)| pack.push(provenance, row));
            // A row may say less than its columns, as no file's row does: then its cells are read under other names.
            if found.iter().any(|(_, row)| cells(row) != cells(&found[0].1)) {
                continue;
            }
            let present = domain.columns.iter().zip(&found[0].1.cells).filter(|(_, cell)| **cell != Cell::Absent);
            let columns: Vec<&str> = present.map(|(column, _)| column.name).collect();
            let rows = found.len().to_string();
            let again = unpacked(domain, columns.join(",").as_bytes(), rows.as_bytes(), pack.value());
            assert_eq!(again.as_ref(), Some(&found), "as it was written");
        }
    });
}

/// Which cells a row has.
fn cells(row: &RawRow<'_>) -> Vec<bool> {
    row.cells.iter().map(|cell| *cell != Cell::Absent).collect()
}

/// The rows of a message, if all of it can be read.
fn unpacked(domain: &Domain, columns: &[u8], rows: &[u8], value: &[u8]) -> Option<Vec<(Provenance, RawRow<'static>)>> {
    let header = |key, value| Header { key, value: Some(value) };
    let headers = OwnedHeaders::new().insert(header("pack", &b"12,1,0,2,3,0,2"[..]));
    let headers = headers.insert(header("rows", rows)).insert(header("columns", columns));
    Head::from_headers(Some(&headers)).ok()?.rows(domain, value).ok()
}

#[test]
fn an_origin_that_is_read_is_written_as_it_was() {
    let samples: [&[u8]; 2] =
        [b"12,1,3,5,29360150283550720,2,1", b"12,1,3,5,29360150283550720,2,1,5b9e0000000000018000000000000002,12"];
    let words: [&[u8]; 5] = [b",", b"-", b"+", b"9223372036854775807", b" "];
    fuzz(&samples, &words, |input, _| {
        let headers = OwnedHeaders::new().insert(Header { key: "origin", value: Some(input) });
        let Ok(provenance) = Provenance::from_headers(Some(&headers)) else { return };
        assert_eq!(Provenance::from_headers(Some(&provenance.to_headers())).expect("as it was written"), provenance);
    });
}

#[test]
fn every_notification_is_read_or_refused() {
    let samples: [&[u8]; 5] = [
        br#"{"Records":[{"eventSource":"aws:s3","eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"raw"},"object":{"key":"a/b+c%C3%A9.csv"}}}]}"#,
        br#"{"Type":"Notification","Message":"{\"Records\":[{\"eventName\":\"ObjectCreated:Copy\",\"s3\":{\"bucket\":{\"name\":\"raw\"},\"object\":{\"key\":\"x\"}}}]}"}"#,
        br#"{"detail-type":"Object Created","source":"aws.s3","detail":{"bucket":{"name":"raw"},"object":{"key":"a b.csv"}}}"#,
        br#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"raw"}"#,
        b"{}",
    ];
    let words: [&[u8]; 8] = [b"%", b"%FF", b"%00", b"+", b"\"Records\":[", b"null", b"\\ud800", b"\"Message\":\"{}\""];
    fuzz(&samples, &words, |input, _| {
        drop(events::read(input));
    });
}

#[test]
fn every_contract_is_read_or_refused_with_its_places() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/climate_health");
    let contracts: Vec<Vec<u8>> = std::fs::read_dir(folder.join("domains"))
        .expect("contracts")
        .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a contract"))
        .collect();
    let samples: Vec<&[u8]> = contracts.iter().map(Vec::as_slice).collect();
    let words: [&[u8]; 8] =
        [b"- ", b": ", b"\n    ", b"&a [*a]", b"!!binary ", b"value: null", b"name: \"\\u0000\"", b"{{{{"];
    let scratch = tempfile::tempdir().expect("a folder");
    let domains = scratch.path().join("domains");
    std::fs::create_dir(&domains).expect("a folder");
    fuzz(&samples, &words, |input, _| {
        std::fs::write(domains.join("one.odcs.yaml"), input).expect("write");
        let Err(mistakes) = Pipeline::read(scratch.path()) else { return };
        assert!(!mistakes.is_empty());
        for mistake in mistakes {
            let line = mistake.to_string();
            assert!(!line.contains('\n') && line.len() < 2_000, "{line}");
        }
    });
}
