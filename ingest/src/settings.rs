//! Settings of the section `ingest`.

use std::collections::BTreeMap;
use std::time::Duration;

use freshet_sinks::backoff::Backoff;
use freshet_topics::Domain;
use freshet_topics::pipeline::pattern;
use freshet_topics::settings::at_least_one;
use serde::Deserialize;

use crate::frame::FrameLimits;
use crate::names::NOT_DATA;
use crate::object::ReadLimits;

/// Settings of the listener.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestSettings {
    /// Time between two listings of the raw bucket, in milliseconds. Default 30,000 (listing costs money); the
    /// local stack sets 100.
    pub list_interval_ms: u64,
    /// Upper bound of this interval, in milliseconds. It doubles while the store announces new files and listings find
    /// nothing that was not announced; if listings take longer than a hundredth of the time, it may grow to twelve
    /// times this value. Default 0: it does not grow; the local stack sets 5,000.
    pub list_interval_max_ms: u64,
    /// Time between two looks for deleted objects, in milliseconds; each also compares the whole listing with the
    /// ledger again, so that a restored database is noticed. Default 60,000.
    pub reconcile_interval_ms: u64,
    /// Time between two sweeps over published objects, in milliseconds. Default 1,000; four times as often while
    /// objects wait for their rows to be applied, and down to an eighth as often while none does. Sweeps take a fifth of
    /// the time at most.
    pub sweep_interval_ms: u64,
    /// Longest time that a waiting object whose back-off ends, or that another listener registered, goes
    /// unnoticed by this one, in milliseconds. Default 500.
    pub claim_interval_ms: u64,
    /// Further object key patterns by domain: one ending in `/` is a prefix, any other a whole key. Default none.
    pub patterns: BTreeMap<String, Vec<String>>,
    /// Patterns of names that are not data, for any part of the path after the domain's prefix, ignoring case; `*`
    /// matches any characters. Default: markers, checksums, manifests, unfinished uploads ([`crate::names`]).
    pub not_data: Vec<String>,
    /// Time between two looks for objects that belong to no domain, in milliseconds; each lists what is in the bucket
    /// besides the domains. It doubles, up to `list_interval_max_ms`, while the store announces new files and nothing
    /// changes; an announced object of no domain ends the wait. Default 60,000.
    pub unmatched_interval_ms: u64,
    /// Objects published at once. Each may hold two chunks in memory. Default 4.
    pub workers: usize,
    /// Bytes, after decompression, that are published between two resume points; a file below this is read
    /// once and kept in memory. Default 8 MiB.
    pub chunk_bytes: usize,
    /// Rows of a domain that may be in its topic and not yet applied, before the domain is paused. Default 500,000.
    pub lag_rows_max: i64,
    /// How long a listener that went silent keeps the objects it was publishing, in milliseconds. Default 10,000.
    pub lease_ms: u64,
    /// Requests to S3 a second; S3 itself takes 5,500 reads a prefix. Default 4,000.
    pub s3_requests_per_second: u32,
    /// Rows published a second. Default 1,000,000.
    pub rows_per_second: u32,
    /// Pause after a first failure, in milliseconds; it doubles with each further one. Default 500.
    pub retry_min_ms: u64,
    /// Longest pause after a failure, in milliseconds. Default 60,000.
    pub retry_max_ms: u64,
    /// How long a shutdown waits for the current chunks, in milliseconds. Default 20,000.
    pub drain_ms: u64,
    /// `linger.ms` of the producer: how long it waits for a batch to fill, in milliseconds. Default 5.
    pub linger_ms: u32,
    /// Text of a row, in bytes. Default 1 MiB.
    pub record_bytes_max: usize,
    /// Cells of a row. Default 1,024.
    pub fields_max: usize,
    /// Text of a cell, in bytes; an unclosed quote is noticed after this much. Default 256 KiB.
    pub field_bytes_max: usize,
    /// Longest file after decompression, in bytes. Default 16 GiB.
    pub inflated_bytes_max: u64,
    /// Bytes after decompression per byte before, checked beyond the first 16 MiB. Default 200.
    pub inflate_ratio_max: u64,
    /// The queue with the store's events. Default none.
    pub events: EventSettings,
}

/// The SQS queue with the store's events.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventSettings {
    /// Its URL, `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`. Default empty: there is none.
    pub queue_url: String,
    /// Address of an SQS-compatible service, `http://host:port`. Default empty: AWS.
    pub endpoint: String,
    /// Region of the queue. Default empty: the region of the buckets.
    pub region: String,
    /// How long a request waits for a message, in seconds, 1 to 20. Default 20.
    pub wait_s: u64,
    /// How long a message that a listener took is hidden from others, in seconds, 2 to 43,200. Default 30.
    pub hidden_s: u64,
    /// Requests for messages at once, each for ten, 1 to 32. Default 2.
    pub receivers: usize,
    /// How many times a message is received before the queue moves it to its dead letters, as set up by
    /// `freshet setup`, 1 to 1,000. Default 5.
    pub receives_max: u32,
}

impl Default for EventSettings {
    fn default() -> Self {
        EventSettings {
            queue_url: String::new(),
            endpoint: String::new(),
            region: String::new(),
            wait_s: 20,
            hidden_s: 30,
            receivers: 2,
            receives_max: 5,
        }
    }
}

impl EventSettings {
    fn check(&self) -> Result<(), String> {
        let url = &self.queue_url;
        let is_web = url.starts_with("https://") || url.starts_with("http://");
        let is_address = is_web && self.queue_name().is_some();
        if !url.is_empty() && !is_address {
            return Err("ingest.events.queue_url is not like https://sqs.REGION.amazonaws.com/ACCOUNT/NAME".into());
        }
        let limits = [
            ("wait_s", self.wait_s, 1, 20),
            ("hidden_s", self.hidden_s, 2, 43_200),
            ("receivers", self.receivers as u64, 1, 32),
            ("receives_max", self.receives_max.into(), 1, 1_000),
        ];
        match limits.iter().find(|(_, value, least, most)| !(*least..=*most).contains(value)) {
            Some((name, _, least, most)) => Err(format!("ingest.events.{name} must be from {least} to {most}")),
            None => Ok(()),
        }
    }

    /// The queue's name, the last part of its URL.
    pub fn queue_name(&self) -> Option<&str> {
        self.queue_url.rsplit_once('/').map(|(_, name)| name).filter(|name| !name.is_empty())
    }
}

impl Default for IngestSettings {
    fn default() -> Self {
        IngestSettings {
            list_interval_ms: 30_000,
            list_interval_max_ms: 0,
            reconcile_interval_ms: 60_000,
            sweep_interval_ms: 1_000,
            claim_interval_ms: 500,
            patterns: BTreeMap::new(),
            not_data: NOT_DATA.map(str::to_owned).to_vec(),
            unmatched_interval_ms: 60_000,
            workers: 4,
            chunk_bytes: 8 << 20,
            lag_rows_max: 500_000,
            lease_ms: 10_000,
            s3_requests_per_second: 4_000,
            rows_per_second: 1_000_000,
            retry_min_ms: 500,
            retry_max_ms: 60_000,
            drain_ms: 20_000,
            linger_ms: 5,
            record_bytes_max: 1 << 20,
            fields_max: 1024,
            field_bytes_max: 256 << 10,
            inflated_bytes_max: ReadLimits::default().inflated_bytes_max,
            inflate_ratio_max: ReadLimits::default().inflate_ratio_max,
            events: EventSettings::default(),
        }
    }
}

impl IngestSettings {
    /// The first setting that cannot work, and why.
    ///
    /// # Errors
    /// One clear line for the person who wrote it.
    pub fn check(&self, domains: &[&Domain]) -> Result<(), String> {
        let positive = [
            ("list_interval_ms", self.list_interval_ms),
            ("reconcile_interval_ms", self.reconcile_interval_ms),
            ("sweep_interval_ms", self.sweep_interval_ms),
            ("claim_interval_ms", self.claim_interval_ms),
            ("unmatched_interval_ms", self.unmatched_interval_ms),
            ("workers", self.workers as u64),
            ("chunk_bytes", self.chunk_bytes as u64),
            ("s3_requests_per_second", self.s3_requests_per_second.into()),
            ("rows_per_second", self.rows_per_second.into()),
            ("retry_min_ms", self.retry_min_ms),
            ("record_bytes_max", self.record_bytes_max as u64),
            ("fields_max", self.fields_max as u64),
            ("field_bytes_max", self.field_bytes_max as u64),
            ("inflated_bytes_max", self.inflated_bytes_max),
            ("inflate_ratio_max", self.inflate_ratio_max),
        ];
        at_least_one("ingest", &positive)?;
        if self.lag_rows_max < 1 {
            return Err("ingest.lag_rows_max must be at least 1".into());
        }
        if self.lease_ms < 1_000 {
            return Err(
                "ingest.lease_ms must be at least 1000: a lease is renewed three times before it expires".into()
            );
        }
        if self.retry_max_ms < self.retry_min_ms {
            return Err("ingest.retry_max_ms must not be below ingest.retry_min_ms".into());
        }
        self.check_patterns(domains)?;
        if let Some(pattern) = self.not_data.iter().find(|it| it.is_empty() || it.contains('/') || *it == "*") {
            return Err(format!(
                "ingest.not_data: `{pattern}` must be a name with `*` for any characters: a part of a path, and not every one"
            ));
        }
        self.events.check()
    }

    /// Every key belongs to one domain, as among contracts.
    fn check_patterns(&self, domains: &[&Domain]) -> Result<(), String> {
        for (name, patterns) in &self.patterns {
            if domains.iter().all(|domain| domain.name != name) {
                let names: Vec<&str> = domains.iter().map(|domain| domain.name).collect();
                return Err(format!("ingest.patterns.{name}: no such domain; there are {}", names.join(", ")));
            }
            let others = || domains.iter().filter(|domain| domain.name != name);
            let clash = |pattern: &String| {
                others().find_map(|other| pattern::clash(pattern, self.all_patterns_of(other), other.name))
            };
            let mistake = patterns.iter().find_map(|it| pattern::mistake_in(it).or_else(|| clash(it)));
            if let Some(said) = mistake {
                return Err(format!("ingest.patterns.{name}: {said}"));
            }
        }
        Ok(())
    }

    /// The limits for rows and cells.
    pub fn frame_limits(&self) -> FrameLimits {
        let IngestSettings { record_bytes_max, fields_max, field_bytes_max, .. } = *self;
        FrameLimits { record_bytes_max, fields_max, field_bytes_max }
    }

    /// The limits for compressed files.
    pub fn read_limits(&self) -> ReadLimits {
        ReadLimits { inflated_bytes_max: self.inflated_bytes_max, inflate_ratio_max: self.inflate_ratio_max }
    }

    /// The additional patterns of a domain.
    pub fn patterns_of(&self, domain: &str) -> impl Iterator<Item = &str> {
        self.patterns.get(domain).into_iter().flatten().map(String::as_str)
    }

    /// All patterns of a domain: its own and the additional ones.
    pub fn all_patterns_of(&self, domain: &Domain) -> impl Iterator<Item = &str> {
        domain.patterns.iter().copied().chain(self.patterns_of(domain.name))
    }

    /// The waits after failures in a row.
    pub fn back_off(&self) -> Backoff {
        Backoff::new(Duration::from_millis(self.retry_min_ms), Duration::from_millis(self.retry_max_ms))
    }
}

#[cfg(test)]
mod tests {
    use freshet_topics::DOMAINS;

    use super::*;

    #[test]
    fn the_defaults_can_work() {
        assert_eq!(IngestSettings::default().check(&DOMAINS), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_named() {
        type Change = fn(&mut IngestSettings);
        let cases: [(Change, &str); 15] = [
            (|settings| settings.workers = 0, "ingest.workers"),
            (|settings| settings.lag_rows_max = 0, "ingest.lag_rows_max"),
            (|settings| settings.lease_ms = 10, "ingest.lease_ms"),
            (|settings| settings.retry_max_ms = 1, "ingest.retry_max_ms"),
            (|settings| settings.not_data.push("a/*".into()), "ingest.not_data"),
            (|settings| settings.not_data.push("*".into()), "ingest.not_data"),
            (|settings| settings.events.queue_url = "events".into(), "ingest.events.queue_url"),
            (|settings| settings.events.wait_s = 21, "ingest.events.wait_s"),
            (|settings| settings.events.hidden_s = 1, "ingest.events.hidden_s"),
            (|settings| settings.events.receivers = 0, "ingest.events.receivers"),
            (|settings| _ = settings.patterns.insert("helth".into(), vec![]), "ingest.patterns.helth"),
            (|settings| _ = settings.patterns.insert("health".into(), vec!["".into()]), "ingest.patterns.health: ``"),
            (|settings| _ = settings.patterns.insert("health".into(), vec!["a/*".into()]), "ingest.patterns.health"),
            (
                |settings| _ = settings.patterns.insert("health".into(), vec!["climate/".into()]),
                "ingest.patterns.health",
            ),
            (
                |settings| {
                    settings.patterns.insert("health".into(), vec!["in/".into()]);
                    settings.patterns.insert("climate".into(), vec!["in/climate/".into()]);
                },
                "ingest.patterns.climate: a file under `in/climate/` may also match `in/` of health",
            ),
        ];
        for (change, name) in cases {
            let mut settings = IngestSettings::default();
            change(&mut settings);
            let error = settings.check(&DOMAINS).expect_err(name);
            assert!(error.starts_with(name), "{error}");
        }
    }
}
