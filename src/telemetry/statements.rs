//! Keeps a line about a slow statement short: sqlx logs its whole SQL, which is some kilobytes for a batch.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::text::shorten;

/// Where sqlx logs statements, and the field with the SQL.
const TARGET: &str = "sqlx::query";
const STATEMENT: &str = "db.statement";
/// Enough to know which statement it is.
const CHARS_MAX: usize = 160;

/// Shortens the SQL in the lines that the other format makes, text or JSON.
pub(super) struct ShortStatements<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for ShortStatements<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut found = Statement::default();
        if event.metadata().target() == TARGET {
            event.record(&mut found);
        }
        let short = shortened(&found.0);
        if short == found.0 {
            return self.0.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let [as_text, as_json]: [fn(&str) -> String; 2] =
            [|sql| format!("{sql:?}"), |sql| serde_json::Value::from(sql).to_string()];
        let line = line.replace(&as_text(&found.0), &as_text(&short)).replace(&as_json(&found.0), &as_json(&short));
        writer.write_str(&line)
    }
}

/// Its beginning and its end, on one line.
fn shortened(sql: &str) -> String {
    shorten(&sql.split_whitespace().collect::<Vec<_>>().join(" "), CHARS_MAX)
}

#[derive(Default)]
struct Statement(String);

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == STATEMENT {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, fmt as logs};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("kept").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a log of this form has of a slow statement, as sqlx tells of it.
    fn logged(sql: &str, as_json: bool) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = logs::layer().with_writer(move || writer.clone());
        let layer = match as_json {
            true => layer.json().map_event_format(ShortStatements).boxed(),
            false => layer.with_ansi(false).map_event_format(ShortStatements).boxed(),
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(target: TARGET, summary = "INSERT INTO a …", db.statement = sql, rows_affected = 7_u64, "slow statement");
        });
        let kept = kept.0.lock().expect("kept").clone();
        String::from_utf8(kept).expect("UTF-8")
    }

    #[test]
    fn a_slow_statement_is_one_short_line() {
        let sql = format!("\n\nINSERT INTO \"a\" (b)\n  SELECT {} FROM c\n", "long, ".repeat(400));
        for as_json in [false, true] {
            let line = logged(&sql, as_json);
            assert!(line.len() < 600 && line.lines().count() == 1, "{} bytes: {line}", line.len());
            assert!(
                line.contains("SELECT long,") && line.contains("FROM c") && line.contains("rows_affected"),
                "{line}"
            );
            assert!(!as_json || serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
        }
        assert!(logged("SELECT 1", false).contains("db.statement=\"SELECT 1\""));
    }
}
