//! Every secret is given a value that nothing else has, freshet is made to talk about everything it does and to fail in
//! every way that has to do with one, and nothing that it writes holds any of them.

use std::fs;
use std::process::Command;

use aws_sdk_s3::primitives::ByteStream;
use freshet::config::secrets::SECRETS;
use freshet::local::{LocalStack, Options};
use freshet_sinks::s3::{self, S3Settings};
use secrecy::ExposeSecret;

use crate::broker::Broker;
use crate::certificates::Authority;
use crate::parts::{Part, free_port};
use crate::postgres::secure;
use crate::settings::{SOON, Settings, folder, within};

/// Everything at debug, and freshet's own crates at trace.
const RUST_LOG: &str =
    "debug,freshet=trace,freshet_topics=trace,freshet_ingest=trace,freshet_processors=trace,freshet_sinks=trace";

/// What was written, with where, and what must not be in it.
struct Heard {
    said: Vec<(String, String)>,
    secrets: Vec<(String, String)>,
}

impl Heard {
    /// A secret that is nowhere else.
    fn secret(&mut self, name: &str) -> String {
        let secret = format!("canary{:016x}", rand::random::<u64>());
        self.secrets.push((name.to_owned(), secret.clone()));
        secret
    }

    fn heard(&mut self, place: &str, text: String) {
        self.said.push((place.to_owned(), text));
    }

    fn holds_no_secret(&self) {
        for (place, text) in &self.said {
            for (name, secret) in &self.secrets {
                let found = text.lines().find(|line| line.contains(secret.as_str()));
                assert!(found.is_none(), "{place} holds {name}: {found:?}");
            }
        }
        assert!(self.said.iter().all(|(_, text)| !text.is_empty()));
    }
}

fn curl(url: &str, more: &[&str]) -> String {
    let output = Command::new("curl").args(["-sS", "-i", "--max-time", "10", url]).args(more).output().expect("curl");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn settings_are_checked_without_a_word_of_a_secret() {
    let folder = folder("checked");
    let mut heard = Heard { said: vec![], secrets: vec![] };
    let value = |heard: &mut Heard, (section, key): (&str, &str)| {
        let secret = heard.secret(&format!("{section}.{key}"));
        if key == "url" { format!("postgres://freshet:{secret}@db.example/freshet") } else { secret }
    };
    // In the environment, in files, and in a settings file: all well.
    let others = || SECRETS.into_iter().filter(|(_, key)| *key != "password");
    let (mut plain, mut by_file, mut toml) = (Settings::default(), Settings::default(), String::new());
    for (section, key) in others() {
        plain = plain.set(&format!("{section}.{key}"), &value(&mut heard, (section, key)));
        by_file = by_file.secret(&folder.0, &format!("{section}.{key}"), &value(&mut heard, (section, key)));
        toml += &format!("[{section}]\n{key} = \"{}\"\n", value(&mut heard, (section, key)));
    }
    // One table a section.
    let mut sections: Vec<&str> = Vec::new();
    let toml: String = toml
        .lines()
        .filter(|line| {
            !line.starts_with('[')
                || !sections.contains(line) && {
                    sections.push(line);
                    true
                }
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let file = folder.0.join("freshet.toml");
    fs::write(&file, &toml).expect("write the settings");
    let by_settings = plain.clone().set_variable("FRESHET_CONFIG", &file.display().to_string());
    for (name, settings) in [("environment", &plain), ("files", &by_file), ("settings file", &by_settings)] {
        let settings = settings.clone().set_variable("RUST_LOG", RUST_LOG);
        let (valid, said) = settings.run(&folder.0, &["check-config"]);
        assert!(valid, "{name}: {said}");
        heard.heard(name, said);
    }

    // Each of these is wrong in a way that has to do with a secret.
    let secret = heard.secret("a wrong one");
    let broken = folder.0.join("broken.toml");
    fs::write(&broken, format!("[kafka]\nsasl_password = \"{secret}\n")).expect("write the settings");
    let token = folder.0.join("token");
    fs::write(&token, &secret).expect("write a secret");
    let token = token.display().to_string();
    let wrong: [(&str, Vec<(&str, String)>); 9] = [
        ("a file that is not TOML", vec![("FRESHET_CONFIG", broken.display().to_string())]),
        ("a URL that is none", vec![("FRESHET__POSTGRES__URL", secret.clone())]),
        ("a port that is none", vec![("FRESHET__POSTGRES__URL", format!("postgres://u:{secret}@h:port/d"))]),
        ("a parameter that is none", vec![("FRESHET__POSTGRES__URL", format!("postgres://u@h/d?passwrod={secret}"))]),
        ("a property that is none", vec![("FRESHET__KAFKA__PROPERTIES__SASL_PASSWROD", secret.clone())]),
        ("a value that is none", vec![("FRESHET__KAFKA__PROPERTIES__SOCKET_TIMEOUT_MS", secret.clone())]),
        ("a mechanism that is none", vec![("FRESHET__KAFKA__SASL_MECHANISM", secret.clone())]),
        ("twice", vec![("FRESHET__HTTP__TOKEN_FILE", token), ("FRESHET__HTTP__TOKEN", secret.clone())]),
        ("half a key", vec![("FRESHET__S3__SECRET_ACCESS_KEY", secret.clone())]),
    ];
    for (name, variables) in wrong {
        let mut settings = Settings::default().set_variable("RUST_LOG", RUST_LOG);
        for (variable, value) in variables {
            settings = settings.set_variable(variable, &value);
        }
        for arguments in [&["check-config"][..], &["status"]] {
            let (valid, said) = settings.run(&folder.0, arguments);
            assert!(!valid, "{name}: {said}");
            heard.heard(&format!("{name}, {arguments:?}"), said);
        }
    }
    heard.holds_no_secret();
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_work_and_fail_without_a_word_of_a_secret() {
    let folder = folder("canary");
    let mut heard = Heard { said: vec![], secrets: vec![] };
    let [ours, clients] = ["ours", "clients"].map(|name| Authority::new(&folder.0, name));
    let options = Options { data_dir: folder.0.join("data"), kafka: false, postgres: true, s3: true, tell_to: None };
    let (broker, stack) = tokio::join!(Broker::start(&folder.0, &ours, &clients), LocalStack::start(options, |_| ()));
    let stack = stack.expect("start Postgres and S3");
    let url = stack.endpoints().database_url.clone().expect("Postgres runs");
    let store = stack.endpoints().s3.clone().expect("S3 runs");
    secure(&url, &ours).await;
    let url_password = url.split(['/', '@']).nth(2).and_then(|login| login.split_once(':')).expect("a login").1;
    heard.secrets.push(("the password of Postgres".into(), url_password.to_owned()));
    heard.secrets.push(("the secret key of S3".into(), store.secret_access_key.expose_secret().to_owned()));
    // The id of the key is no secret: the AWS SDK shows it at debug.
    let kafka_password = heard.secret("the password of Kafka");
    let token = heard.secret("the token");
    let acl = |resource: &str| {
        format!(
            "--add --resource-pattern-type prefixed --allow-principal User:canary --operation All {resource} freshet."
        )
    };
    broker.administer(&[format!("scram canary {kafka_password}"), acl("--topic"), acl("--group")]);

    let named = url.replace("127.0.0.1", "localhost");
    let ca = ours.certificate.display().to_string();
    let right = Settings::default()
        .set_variable("RUST_LOG", RUST_LOG)
        .set("kafka.brokers", &broker.secured)
        .set("kafka.security_protocol", "sasl_ssl")
        .set("kafka.sasl_mechanism", "SCRAM-SHA-512")
        .set("kafka.sasl_username", "canary")
        .secret(&folder.0, "kafka.sasl_password", &kafka_password)
        .set("kafka.oauth_client_secret", &heard.secret("kafka.oauth_client_secret"))
        .set("kafka.ssl_key_password", &heard.secret("kafka.ssl_key_password"))
        .set("kafka.ssl_ca_location", &ca)
        .set("kafka.partitions", "1")
        .set("kafka.replication", "1")
        .set("kafka.min_insync_replicas", "1")
        .set("postgres.url", &format!("{named}?sslmode=verify-full&sslrootcert={ca}"))
        .set("s3.endpoint", &store.endpoint)
        .set("s3.region", &store.region)
        .set("s3.access_key_id", store.access_key_id.expose_secret())
        .set("s3.secret_access_key", store.secret_access_key.expose_secret())
        .set("ingest.list_interval_ms", "200")
        .set("metrics.stable_copy_interval_ms", "500")
        .set("http.survey_interval_ms", "300")
        .set("http.token", &token);
    let (set_up, said) = right.run(&folder.0, &["setup"]);
    assert!(set_up, "{said}");
    heard.heard("setup", said);

    // Everything works.
    let ports = [(); 3].map(|()| free_port());
    let roles: [&[&str]; 3] = [&["ingest"], &["process", "locations"], &["metrics"]];
    let at = |port: u16| format!("127.0.0.1:{port}");
    let start = |(arguments, port): (&[&str], u16)| {
        right.clone().set("http.listen", &at(port)).start(&folder.0, arguments[0], arguments)
    };
    let mut running: Vec<Part> = roles.into_iter().zip(ports).map(start).collect();
    let client = s3::client(&S3Settings {
        endpoint: store.endpoint.clone(),
        region: store.region.clone(),
        access_key_id: store.access_key_id.clone(),
        secret_access_key: store.secret_access_key.clone(),
        ..S3Settings::default()
    })
    .await;
    let body = ByteStream::from_static(b"id,name,type,population,area\n1,Riverside,district,250000,120.5\n");
    client.put_object().bucket("freshet-raw").key("locations/a.csv").body(body).send().await.expect("drop a file");
    let (through, said) = right.run(&folder.0, &["status", "--wait", "--timeout", "60s"]);
    assert!(through, "{}", said.lines().last().unwrap_or_default());
    heard.heard("status --wait", said);
    for arguments in [&["status"][..], &["status", "--json", "--files"], &["topics", "create"], &["check-config"]] {
        let (succeeded, said) = right.run(&folder.0, arguments);
        assert!(succeeded, "{arguments:?}: {said}");
        heard.heard(&arguments.join(" "), said);
    }
    let bearer = format!("Authorization: Bearer {token}");
    for port in ports {
        for path in ["/metrics", "/readyz", "/healthz", "/", "/s3-events"] {
            let url = format!("http://{}{path}", at(port));
            heard.heard(path, curl(&url, &["-H", &bearer]));
            heard.heard(path, curl(&format!("{url}?token={token}"), &[]));
            heard.heard(path, curl(&url, &["-H", &bearer, "--data", "nonsense"]));
        }
    }
    for (role, arguments) in running.iter_mut().zip(roles) {
        assert_eq!(role.terminate(SOON).code(), Some(0), "{}", role.log());
        let log = role.log();
        assert!(log.contains("DEBUG") && log.lines().count() > 50, "{log}");
        heard.heard(&arguments.join(" "), log);
    }

    // And then nothing does: no host, no name, no password.
    let wrong = heard.secret("a wrong password");
    let elsewhere = |settings: Settings| {
        settings
            .set("kafka.brokers", "127.0.0.1:1")
            .set("postgres.url", &url.replace(&url[url.rfind(':').expect("a port")..], ":1/freshet"))
            .set("s3.endpoint", "http://127.0.0.1:1")
    };
    let refused = |settings: Settings| {
        let user = named.replace(url_password, &wrong);
        settings.set("postgres.url", &format!("{user}?sslmode=require")).set("s3.secret_access_key", &wrong).secret(
            &folder.0,
            "kafka.sasl_password",
            &wrong,
        )
    };
    let unknown = |settings: Settings| {
        settings
            .set("kafka.brokers", "no-such-host.invalid:9092")
            .set("postgres.url", &named.replace("localhost", "no-such-host.invalid"))
            .set("s3.endpoint", "http://no-such-host.invalid")
    };
    let cases = [
        ("nobody there", elsewhere(right.clone())),
        ("refused", refused(right.clone())),
        ("no such host", unknown(right.clone())),
        ("untrusted", right.clone().set("kafka.ssl_ca_location", &clients.certificate.display().to_string())),
    ];
    for (name, settings) in cases {
        let port = free_port();
        let settings = settings.set("http.listen", &at(port)).set("ingest.retry_min_ms", "100");
        let mut role = settings.start(&folder.0, &name.replace(' ', "-"), &["ingest"]);
        let waits = async || role.log().contains("waiting for a service that a role needs").then_some(());
        within(SOON, "it says what it waits for", waits).await;
        heard.heard(name, curl(&format!("http://{}/readyz", at(port)), &[]));
        assert_eq!(role.terminate(SOON).code(), Some(0), "{}", role.log());
        heard.heard(name, role.log());
        for arguments in [&["setup", "--dry-run"][..], &["status"], &["status", "--json"], &["migrate"]] {
            heard.heard(&format!("{name}, {arguments:?}"), settings.run(&folder.0, arguments).1);
        }
    }
    heard.holds_no_secret();
    stack.stop().await.expect("stop");
}
