//! Files to drop.

use std::fmt::Write;
use std::fs;

use async_compression::tokio::bufread::GzipEncoder;
use chrono::{Days, NaiveDate};
use freshet::commands::generate::{self, GenerateOptions};
use freshet_topics::Pipeline;
use tokio::io::AsyncReadExt;

/// The numbers of the golden row: location 1 on 2025-08-22 of the source's own data.
pub(crate) const GOLDEN_LOCATION: &str = "name,type,population,area,id\nAndhra Pradesh,state,49577103,162975,1\n";
pub(crate) const GOLDEN_HEALTH: &str = "\
location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases,is_projected,projection_year
1,2025-08-22,4911,5753,0,29614,False,
";
pub(crate) const GOLDEN_HOSPITAL: &str = "\
location_id,date,total_beds,available_beds,doctors,nurses,iv_fluids_stock,antibiotics_stock,antipyretics_stock,\
is_projected,projection_year
1,2025-08-22,135902,119791,27159,96535,0,0,776.0,False,
";

/// Generated files as (key, content), in key order.
pub(crate) fn generated(change: impl FnOnce(&mut GenerateOptions)) -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = GenerateOptions::into(folder.path());
    change(&mut options);
    generate::run(Pipeline::shipped().domains, &options).expect("generate");
    let files = generate::files(folder.path()).expect("list");
    files.into_iter().map(|file| (file.key, fs::read(file.path).expect("read"))).collect()
}

pub(crate) fn date(text: &str) -> NaiveDate {
    text.parse().expect("a date")
}

/// Locations 1 to `count`, each with a hundred thousand times its id inhabitants.
pub(crate) fn locations(count: i32) -> String {
    (1..=count).fold("id,name,type,population,area\n".to_owned(), |mut file, id| {
        writeln!(file, "{id},Place {id},state,{},{id}.5", id * 100_000).expect("write");
        file
    })
}

/// Health rows of these locations over some days; `salt` makes the values differ.
pub(crate) fn health(locations: i32, from: &str, days: u64, salt: i32) -> String {
    let header = "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases,is_projected\n";
    each(header, locations, from, days, |id, day| {
        format!("{},{},{},{},false", salt + id + day, salt + id, day % 3, salt + 2 * day)
    })
}

pub(crate) fn hospital(locations: i32, from: &str, days: u64, salt: i32) -> String {
    let header = "location_id,date,total_beds,available_beds,doctors,nurses,iv_fluids_stock,antibiotics_stock,\
                  antipyretics_stock,is_projected\n";
    each(header, locations, from, days, |id, day| {
        format!("{},{},{},{},1,2,3,false", 500 + salt + id, 100 + salt + day, 30 + id, 60 + day)
    })
}

pub(crate) fn climate(locations: i32, from: &str, days: u64, salt: i32) -> String {
    let header = "location_id,date,temperature,rainfall,humidity,flood_probability,cyclone_probability,\
                  heatwave_probability,is_projected\n";
    each(header, locations, from, days, |id, day| {
        format!("{}.25,{}.1,50.5,0.{},0.2,0.1,false", 20 + (salt + id) % 15, day, 1 + day % 9)
    })
}

fn each(header: &str, locations: i32, from: &str, days: u64, cells: impl Fn(i32, i32) -> String) -> String {
    let mut file = header.to_owned();
    for day in 0..days {
        let date = date(from) + Days::new(day);
        for id in 1..=locations {
            writeln!(file, "{id},{date},{}", cells(id, i32::try_from(day).expect("few days"))).expect("write");
        }
    }
    file
}

/// Bytes packed by gzip.
pub(crate) async fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    GzipEncoder::new(bytes).read_to_end(&mut packed).await.expect("pack");
    packed
}
