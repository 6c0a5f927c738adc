//! What a row costs. The defaults were measured on two cores (`docs/performance.md`); `freshet bench --scale` measures
//! them on another machine, and prints them as options.

/// What a row costs, in each part.
#[derive(Debug, Clone, Copy, PartialEq, clap::Args)]
#[command(next_help_heading = "Cost of a row, as `freshet bench --scale` prints it")]
pub struct RowCost {
    /// CPU time of the listener, in microseconds
    #[arg(long, value_name = "US", default_value_t = RowCost::MEASURED.ingest_us, value_parser = cost)]
    pub ingest_us: f64,
    /// CPU time of the processor, in microseconds
    #[arg(long, value_name = "US", default_value_t = RowCost::MEASURED.process_us, value_parser = cost)]
    pub process_us: f64,
    /// CPU time of the role that derives the outputs, in microseconds
    #[arg(long, value_name = "US", default_value_t = RowCost::MEASURED.metrics_us, value_parser = cost)]
    pub metrics_us: f64,
    /// CPU time of Kafka for one copy, in microseconds
    #[arg(long, value_name = "US", default_value_t = RowCost::MEASURED.kafka_us, value_parser = cost)]
    pub kafka_us: f64,
    /// CPU time of Postgres, in microseconds
    #[arg(long, value_name = "US", default_value_t = RowCost::MEASURED.postgres_us, value_parser = cost)]
    pub postgres_us: f64,
    /// Bytes in the topic, compressed, for each byte of the CSV file
    #[arg(long, value_name = "SHARE", default_value_t = RowCost::MEASURED.topic_share, value_parser = cost)]
    pub topic_share: f64,
    /// Bytes of write-ahead log, beyond those of the CSV file
    #[arg(long, value_name = "BYTES", default_value_t = RowCost::MEASURED.log_overhead, value_parser = cost)]
    pub log_overhead: f64,
    /// Bytes in the table and its indexes, beyond those of the CSV file
    #[arg(long, value_name = "BYTES", default_value_t = RowCost::MEASURED.table_overhead, value_parser = cost)]
    pub table_overhead: f64,
}

impl RowCost {
    /// As `docs/performance.md` has it; a test compares the two.
    pub const MEASURED: RowCost = RowCost {
        ingest_us: 0.98,
        process_us: 1.52,
        metrics_us: 0.03,
        kafka_us: 1.25,
        postgres_us: 4.35,
        topic_share: 0.73,
        log_overhead: 313.0,
        table_overhead: 187.0,
    };

    /// The options that say so.
    pub fn options(&self) -> String {
        let RowCost { ingest_us, process_us, metrics_us, kafka_us, postgres_us, .. } = self;
        let RowCost { topic_share, log_overhead, table_overhead, .. } = self;
        format!(
            "--ingest-us {ingest_us:.2} --process-us {process_us:.2} --metrics-us {metrics_us:.2} \
             --kafka-us {kafka_us:.2} --postgres-us {postgres_us:.2} --topic-share {topic_share:.2} \
             --log-overhead {log_overhead:.0} --table-overhead {table_overhead:.0}"
        )
    }
}

fn cost(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cost) if (0.0..=1e6).contains(&cost) => Ok(cost),
        _ => Err("must be 0 to 1,000,000".to_owned()),
    }
}
