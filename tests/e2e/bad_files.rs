//! A file that cannot be read is rejected whole, and says why; every name and packing that S3 allows works.

use async_compression::tokio::bufread::ZstdEncoder;
use tokio::io::AsyncReadExt;

use crate::harness::{World, data};

async fn zstd(text: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    ZstdEncoder::new(text).read_to_end(&mut packed).await.expect("pack");
    packed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_rejected_before_a_row_of_it_is_published() {
    // Small chunks: what is wrong comes long after the first of them.
    let world = World::with("bad", |config| config.ingest.chunk_bytes = 4096).await;
    let roles = world.run_all();
    let good = data::health(4, "2025-01-01", 200, 3).into_bytes();
    let with = |end: &[u8]| [good.as_slice(), end].concat();
    let packed = data::gzip(&good).await;
    let bad: [(&str, Vec<u8>, &str); 14] = [
        ("health/header.csv", b"place,when,dengue_cases\n1,2025-01-01,5\n".to_vec(), "no column `location_id`, `date`"),
        ("health/quote.csv", [b"\"", good.as_slice()].concat(), "line 1: a quote opens in the header here"),
        (
            "health/slip.csv",
            String::from_utf8_lossy(&good).replacen("dengue_cases", "dengue_case\u{a0}", 1).into_bytes(),
            "did you mean `dengue_cases`?",
        ),
        (
            "health/hospital.csv",
            data::hospital(2, "2025-01-01", 10, 1).into_bytes(),
            "columns of hospital, not of health",
        ),
        (
            "health/keys.csv",
            b"location_id,date,remarks\n1,2025-01-01,x\n".to_vec(),
            "no column of health besides its key",
        ),
        (
            "health/semicolons.csv",
            b"location_id;date;dengue_cases\n1;2025-01-01;5\n".to_vec(),
            "separated by semicolons",
        ),
        ("health/sep.csv", b"sep=,\nlocation_id,date,dengue_cases\n1,2025-01-01,5\n".to_vec(), "is only for Excel"),
        ("health/nul.csv", with(b"1,2025-08-01,\0,1,1,1,false\n"), "NUL byte"),
        ("health/latin1.csv", with(b"1,2025-08-01,\xE9,1,1,1,false\n"), "invalid UTF-8"),
        ("health/empty.csv", Vec::new(), "empty"),
        ("health/blank.csv", b"\n\n\n".to_vec(), "empty"),
        ("health/long.csv", with(&[b'7'; 300_000]), "longer than"),
        ("health/not-packed.csv.gz", good.clone(), "not gzip"),
        ("health/cut-off.csv.gz", packed[..packed.len() / 2].to_vec(), "cut off"),
    ];
    for (key, content, _) in &bad {
        world.put(key, content).await;
    }
    let waited = world.settle().await;
    assert_eq!((waited.rejected, waited.applied), (bad.len() as u64, 0), "{waited}\n{:#?}", world.objects().await);
    for (key, _, reason) in &bad {
        let object = world.object(key).await;
        let said = object.reason.clone().unwrap_or_default();
        assert!(object.state == "rejected" && said.contains(reason) && !said.contains('\n'), "{reason}: {object:?}");
    }
    let traces: i64 = world
        .query(
            "SELECT (SELECT count(*) FROM health_data) + (SELECT count(*) FROM pipeline.progress)
            + (SELECT count(*) FROM pipeline.rejects)",
        )
        .await;
    assert_eq!(traces, 0, "rows of rejected files");
    let records: i64 = world.query("SELECT coalesce(max(next_offset), 0) FROM pipeline.bookmarks").await;
    assert!(records <= 1, "records beyond the stream record");

    // Mended and dropped again, it loads.
    world.put("health/quote.csv", &good).await;
    world.settle().await;
    assert_eq!(world.object("health/quote.csv").await.state, "applied");
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stray_quote_costs_its_line_and_the_rows_around_it_load() {
    // Small chunks: the quote and what it would swallow lie in different ones.
    let world = World::with("strays", |config| config.ingest.chunk_bytes = 1024).await;
    let roles = world.run_all();
    let mut lines = vec!["id,name,type,population,area".to_owned()];
    lines.extend((1..=300).map(|id| match id {
        20 => format!("{id},\"Field {id},district,100,1.0"),
        250 => format!("{id},Field \"{id}\",district,100,1.0"),
        260 => format!("{id},\"N,\"N,100,1.0"),
        270 => format!("{id},\"two\nlines\",district,100,1.0"),
        280 => ",,,,".to_owned(),
        299 => format!("{id},\"Field {id},district,100,1.0"),
        _ => format!("{id},Field {id},district,100,1.0,,"),
    }));
    world.put("locations/strays.csv", lines.join("\n")).await;
    let waited = world.settle().await;
    assert_eq!((waited.applied, waited.rejected), (1, 0), "{waited}");
    let rejects: Vec<String> =
        world.column("SELECT rule || ' ' || line || ' ' || value FROM pipeline.rejects ORDER BY line").await;
    assert_eq!(
        rejects,
        [
            "stray_quote 21 20,\"Field 20,district,100,1.0",
            "stray_quote 261 260,\"N,\"N,100,1.0",
            "stray_quote 301 299,\"Field 299,district,100,1.0",
        ]
    );
    let loaded: i64 = world.query("SELECT count(*) FROM locations").await;
    assert_eq!(loaded, 300 - 4, "all rows but the strays and the line of commas");
    let named: String = world.query("SELECT name FROM locations WHERE id = 250").await;
    assert_eq!(named, "Field \"250\"");
    world.all_hold().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_and_packing_that_s3_allows_works() {
    let world = World::with("names", |config| config.ingest.chunk_bytes = 2048).await;
    let roles = world.run_all();
    let names = [
        "health/with space.csv",
        "health/a+b&c=d.csv",
        "health/ünï/प्रदेश.csv",
        "health/100%25 sure%.csv",
        "health/deep/er/and/deeper.csv",
        "health/a-b.csv",
        "health/a/b.csv",
        "health/'quoted\".csv",
        "raw/health_data.csv",
    ];
    for (at, name) in names.iter().enumerate() {
        world.put(name, data::health(1, "2025-01-01", 20 + at as u64, at as i32)).await;
    }
    let long = data::health(3, "2024-01-01", 200, 900);
    world.put_packed("health/packed.csv.gz", data::gzip(long.as_bytes()).await, long.as_bytes()).await;
    let other = data::health(3, "2024-05-01", 200, 901);
    world.put_packed("health/packed.csv.zst", zstd(other.as_bytes()).await, other.as_bytes()).await;
    world.put("raw/climate_data.csv", data::climate(2, "2025-01-01", 10, 1)).await;
    world.put("raw/hospital_data.csv", data::hospital(2, "2025-01-01", 10, 1)).await;
    // A byte order mark, CRLF, blank lines, columns in another order, case and spelling, one more, no last newline.
    let places = "\u{feff}AREA, District ,LocationID,colour,Urban_Rural\r\n\r\n1.5,\"Here, \"\"there\"\"\nand\",1,red,town\r\n,Two,2,,x";
    world.put("raw/locations.csv", places).await;
    world.put("elsewhere/ignored.csv", "a,b\n1,2\n").await;
    world.put("raw/ignored.csv", "a,b\n1,2\n").await;
    let waited = world.settle().await;
    assert_eq!(waited.applied, names.len() as u64 + 5, "{waited}\n{:#?}", world.objects().await);
    assert!(world.objects().await.iter().all(|object| !object.key.contains("ignored")));
    let place: String = world.query("SELECT (name, type, population, area)::text FROM locations WHERE id = 1").await;
    assert_eq!(place, "(\"Here, \"\"there\"\"\nand\",town,0,1.5)");
    let extra: Vec<String> =
        world.query("SELECT ignored_columns FROM pipeline.objects WHERE key = 'raw/locations.csv'").await;
    assert_eq!(extra, ["colour"]);
    world.all_hold().await;
    roles.stop().await;
}
