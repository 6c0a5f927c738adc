//! A real Prometheus of the test's own, beside a running pipeline.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::files::path;

/// Starting takes well under a second.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// `prometheus` or `promtool`: the system's, else what scripts/setup unpacked.
pub(crate) fn program(name: &str) -> PathBuf {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let unpacked = cache().join("prometheus/usr/bin");
    let mut folders = std::env::split_paths(&on_path).chain([unpacked]);
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|program| program.is_file()));
    found.unwrap_or_else(|| panic!("there is no {name}: run scripts/setup"))
}

/// As scripts/setup has it.
fn cache() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    of("FRESHET_HOME")
        .or_else(|| of("XDG_CACHE_HOME").map(|it| it.join("freshet")))
        .or_else(|| of("HOME").map(|it| it.join(".cache/freshet")))
        .expect("FRESHET_HOME, XDG_CACHE_HOME or HOME is set")
}

/// A running server. Dropping it ends it.
pub(crate) struct Prometheus {
    child: Child,
    url: String,
}

impl Prometheus {
    /// Starts it on the project's alert rules; it reads `target` (host:port) each second, as the job that they go by.
    pub(crate) fn start(folder: &Path, target: &str) -> Prometheus {
        fs::create_dir_all(folder).expect("make the folder of Prometheus");
        let rules = path("grafana/prometheus/alerts.yml");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n\
             - job_name: freshet\n  static_configs: [{{ targets: ['{target}'], labels: {{ service: up }} }}]\n",
            rules.display()
        );
        fs::write(folder.join("prometheus.yml"), config).expect("write Prometheus' settings");
        // The port is free again for a moment before Prometheus takes it.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port();
        let mut command = Command::new(program("prometheus"));
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"]);
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("start Prometheus");
        let mut prometheus = Prometheus { child, url: format!("http://127.0.0.1:{port}") };
        let since = Instant::now();
        while !prometheus.is_ready() {
            if let Some(status) = prometheus.child.try_wait().expect("look at Prometheus") {
                let mut said = String::new();
                prometheus.child.stderr.take().expect("piped").read_to_string(&mut said).ok();
                panic!("Prometheus ended: {status}\n{said}");
            }
            assert!(since.elapsed() < START_TIMEOUT, "Prometheus does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        prometheus
    }

    fn is_ready(&self) -> bool {
        let url = format!("{}/-/ready", self.url);
        let curl = Command::new("curl").args(["-sS", "--fail", "-o", "/dev/null", &url]).stderr(Stdio::null()).status();
        curl.expect("run curl").success()
    }

    /// Series of the instant `now`.
    pub(crate) fn instant(&self, query: &str) -> Vec<Value> {
        self.ask("query", &[("query", query)])
    }

    /// Series of an instant, in Unix seconds.
    pub(crate) fn instant_at(&self, query: &str, time: i64) -> Vec<Value> {
        self.ask("query", &[("query", query), ("time", &time.to_string())])
    }

    /// Series over the last `seconds`, a point a second.
    pub(crate) fn range(&self, query: &str, seconds: u64) -> Vec<Value> {
        let now = chrono::Utc::now().timestamp();
        self.range_between(query, now - i64::try_from(seconds).expect("a short time"), now)
    }

    /// Series between two times in Unix seconds, a point a second.
    pub(crate) fn range_between(&self, query: &str, start: i64, end: i64) -> Vec<Value> {
        let (start, end) = (start.to_string(), end.to_string());
        self.ask("query_range", &[("query", query), ("start", &start), ("end", &end), ("step", "1")])
    }

    /// The values of a label of a metric, as Grafana's `label_values` asks for them.
    pub(crate) fn label_values(&self, metric: &str, label: &str) -> Vec<String> {
        let answer = self.get(&format!("label/{label}/values"), &[("match[]", metric)]);
        answer["data"].as_array().expect("a list").iter().map(|it| it.as_str().expect("a text").to_owned()).collect()
    }

    fn ask(&self, what: &str, parameters: &[(&str, &str)]) -> Vec<Value> {
        self.get(what, parameters)["data"]["result"].as_array().expect("a list of series").clone()
    }

    fn get(&self, what: &str, parameters: &[(&str, &str)]) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--get", "--max-time", "30"]);
        for (name, value) in parameters {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let output = curl.arg(format!("{}/api/v1/{what}", self.url)).output().expect("run curl");
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{what}: {error}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Whether a series has a number: NaN is what a quantile of nothing is.
pub(crate) fn has_number(series: &Value) -> bool {
    let of = |point: &Value| point[1].as_str().and_then(|it| it.parse::<f64>().ok()).is_some_and(f64::is_finite);
    of(&series["value"]) || series["values"].as_array().is_some_and(|points| points.iter().any(of))
}
