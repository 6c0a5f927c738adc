//! Grafana's variables and macros, filled in as Grafana fills them in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a person has chosen on a dashboard.
#[derive(Clone)]
pub(crate) struct Chosen {
    pub(crate) from: SystemTime,
    pub(crate) to: SystemTime,
    /// All of them, unless one is picked.
    pub(crate) domains: Vec<String>,
    /// Likewise.
    pub(crate) outputs: Vec<String>,
    /// What a panel is repeated for: the name that is shown, and the table.
    pub(crate) table: Option<String>,
    pub(crate) location: Option<String>,
}

impl Chosen {
    pub(crate) fn range(&self) -> Duration {
        self.to.duration_since(self.from).expect("from is before to")
    }

    /// A query for Prometheus. A variable of several values is a group of a regular expression.
    pub(crate) fn promql(&self, expr: &str, rate_interval: &str) -> String {
        let filled = expr
            .replace("$__rate_interval", rate_interval)
            .replace("$__range", &format!("{}s", self.range().as_secs()))
            .replace("$domain", &format!("({})", self.domains.join("|")))
            .replace("$output", &format!("({})", self.outputs.join("|")));
        complete(filled)
    }

    /// A query for Postgres.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let quoted: Vec<String> = self.domains.iter().map(|domain| literal(domain)).collect();
        let mut filled = sql.replace("${domain:sqlstring}", &quoted.join(","));
        filled = filled.replace("$__timeFrom()", &stamp(self.from)).replace("$__timeTo()", &stamp(self.to));
        if let Some(table) = &self.table {
            filled = filled.replace("${table:doublequote}", &format!("\"{}\"", table.replace('"', "\"\"")));
        }
        if let Some(location) = &self.location {
            filled = filled.replace("${location:sqlstring}", &literal(location));
        }
        while let Some((before, rest)) = filled.split_once("$__timeFilter(") {
            let (column, after) = rest.split_once(')').expect("the macro is closed");
            filled = format!("{before}{column} BETWEEN {} AND {}{after}", stamp(self.from), stamp(self.to));
        }
        complete(filled)
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// As Grafana's macros of Postgres write a time.
fn stamp(time: SystemTime) -> String {
    let time = chrono::DateTime::<chrono::Utc>::from(time);
    format!("'{}'", time.format("%Y-%m-%dT%H:%M:%SZ"))
}

fn complete(filled: String) -> String {
    assert!(!filled.contains('$'), "a variable that this test does not fill in: {filled}");
    filled
}

#[test]
fn variables_and_macros_are_filled_in_as_grafana_does() {
    let chosen = Chosen {
        from: UNIX_EPOCH + Duration::from_secs(1_758_400_000),
        to: UNIX_EPOCH + Duration::from_secs(1_758_403_600),
        domains: vec!["climate".into(), "health".into()],
        outputs: vec!["scores".into()],
        table: Some("health_data".into()),
        location: Some("7".into()),
    };
    let expr =
        r#"rate(freshet_x{domain=~"$domain",output=~"$output"}[$__rate_interval]) / increase(freshet_x[$__range])"#;
    let expected =
        r#"rate(freshet_x{domain=~"(climate|health)",output=~"(scores)"}[60s]) / increase(freshet_x[3600s])"#;
    assert_eq!(chosen.promql(expr, "60s"), expected);
    let sql = "SELECT FROM ${table:doublequote} WHERE d IN (${domain:sqlstring}) AND $__timeFilter(f.at) AND id = ${location:sqlstring}";
    let expected = "SELECT FROM \"health_data\" WHERE d IN ('climate','health') \
        AND f.at BETWEEN '2025-09-20T20:26:40Z' AND '2025-09-20T21:26:40Z' AND id = '7'";
    assert_eq!(chosen.sql(sql), expected);
}
