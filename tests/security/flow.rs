//! A file goes all the way over services that ask everybody who he is, with the users, SQL and ACLs of `docs/deploy.md`.

use aws_sdk_s3::primitives::ByteStream;
use freshet::local::{LocalStack, Options};
use freshet_sinks::s3::{self, S3Settings};
use secrecy::ExposeSecret;

use crate::broker::Broker;
use crate::certificates::Authority;
use crate::parts::Part;
use crate::postgres::{execute, secure};
use crate::settings::{SOON, Settings, blocks, folder, within};

const LOCATIONS: &str = "id,name,type,population,area\n1,Riverside,district,250000,120.5\n";
const HEALTH: &str =
    "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases\n1,2025-09-20,12,7,0,31\n";
/// The users of Kafka in the page, and those of Postgres.
const USERS: [&str; 4] = ["setup", "ingest", "process", "metrics"];
const POSTGRES_USERS: [&str; 5] = ["owner", "ingest", "process", "metrics", "reader"];

/// The arguments of the page's `kafka-acls.sh`, a line a call.
fn acls() -> Vec<String> {
    let block = blocks("deploy.md", "text").into_iter().find(|block| block.contains("kafka-acls.sh")).expect("ACLs");
    let (common, rest) = block.split_once('\n').expect("lines");
    let common = common.trim_start_matches("acl=\"kafka-acls.sh ").trim_end_matches('"');
    let lines = rest.lines().map(|line| format!("{common} {}", line.strip_prefix("$acl ").expect("$acl")));
    lines.collect()
}

fn password(user: &str) -> String {
    format!("password-of-{user}")
}

/// Makes the database and the users of the page. `url` is the administrator's.
async fn make_database(url: &str) {
    let [administrator, ..] = &blocks("deploy.md", "sql")[..] else { panic!("a block of SQL") };
    // Each by itself: a database is not made within a transaction.
    for statement in administrator.split_inclusive(';').map(str::trim).filter(|it| !it.is_empty()) {
        execute(url, statement).await;
    }
    for user in POSTGRES_USERS {
        execute(url, &format!("ALTER ROLE freshet_{user} PASSWORD '{}'", password(user))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_through_services_that_let_each_role_do_only_its_own() {
    let folder = folder("flow");
    let [ours, clients] = ["ours", "clients"].map(|name| Authority::new(&folder.0, name));
    let options = Options { data_dir: folder.0.join("data"), kafka: false, postgres: true, s3: true, tell_to: None };
    let (broker, stack) = tokio::join!(Broker::start(&folder.0, &ours, &clients), LocalStack::start(options, |_| ()));
    let stack = stack.expect("start Postgres and S3");
    let url = stack.endpoints().database_url.clone().expect("Postgres runs");
    let store = stack.endpoints().s3.clone().expect("S3 runs");
    secure(&url, &ours).await;
    make_database(&url).await;
    let users = USERS.map(|user| format!("scram freshet-{user} {}", password(user)));
    broker.administer(&[&users[..], &acls()].concat());

    let ca = ours.certificate.display().to_string();
    let port = url.rsplit_once(':').and_then(|(_, rest)| rest.split_once('/')).expect("a port").0.to_owned();
    let as_users = |kafka: &str, postgres: &str| {
        let url =
            format!("postgres://freshet_{postgres}@localhost:{port}/freshet_data?sslmode=verify-full&sslrootcert={ca}");
        Settings::default()
            .set("kafka.brokers", &broker.secured)
            .set("kafka.security_protocol", "sasl_ssl")
            .set("kafka.sasl_mechanism", "SCRAM-SHA-512")
            .set("kafka.sasl_username", &format!("freshet-{kafka}"))
            .secret(&folder.0, "kafka.sasl_password", &password(kafka))
            .set("kafka.ssl_ca_location", &ca)
            .set("kafka.partitions", "2")
            .set("kafka.replication", "1")
            .set("kafka.min_insync_replicas", "1")
            .set("postgres.url", &url)
            .secret(&folder.0, "postgres.password", &password(postgres))
            .set("s3.endpoint", &store.endpoint)
            .set("s3.region", &store.region)
            .secret(&folder.0, "s3.access_key_id", store.access_key_id.expose_secret())
            .secret(&folder.0, "s3.secret_access_key", store.secret_access_key.expose_secret())
            .set("ingest.list_interval_ms", "200")
            .set("metrics.stable_copy_interval_ms", "500")
            .set("http.listen", "127.0.0.1:0")
            .set("http.survey_interval_ms", "500")
    };
    let (set_up, said) = as_users("setup", "owner").run(&folder.0, &["setup"]);
    assert!(set_up && said.contains("20 of 20 prepared"), "{said}");
    let owner = format!("postgres://freshet_owner:{}@localhost:{port}/freshet_data?sslmode=require", password("owner"));
    execute(&owner, &blocks("deploy.md", "sql")[1]).await;

    let role = |name: &str, arguments: &[&str]| as_users(name, name).start(&folder.0, &arguments.join("-"), arguments);
    let roles: Vec<Part> = [
        role("ingest", &["ingest"]),
        role("process", &["process", "locations"]),
        role("process", &["process", "health"]),
        role("metrics", &["metrics"]),
    ]
    .into();
    let client = s3::client(&S3Settings {
        endpoint: store.endpoint.clone(),
        region: store.region.clone(),
        access_key_id: store.access_key_id.clone(),
        secret_access_key: store.secret_access_key.clone(),
        ..S3Settings::default()
    })
    .await;
    for (key, text) in [("locations/all.csv", LOCATIONS), ("health/one.csv", HEALTH)] {
        let body = ByteStream::from_static(text.as_bytes());
        client.put_object().bucket("freshet-raw").key(key).body(body).send().await.expect("drop a file");
    }
    let (through, said) = as_users("metrics", "reader").run(&folder.0, &["status", "--wait", "--timeout", "60s"]);
    let logs = || roles.iter().map(Part::log).collect::<String>();
    assert!(through, "{said}\n{}", logs());
    let risks = client.get_object().bucket("freshet-processed").key("metrics/current_health_risks.csv").send().await;
    let risks = risks.expect("the output is there").body.collect().await.expect("read it").into_bytes();
    assert!(String::from_utf8_lossy(&risks).contains("Riverside"), "{risks:?}");
    let (told, status) = as_users("metrics", "reader").run(&folder.0, &["status"]);
    assert!(told && !status.contains("left out") && !status.contains("counted from"), "{status}");

    // Nobody was refused anything on the way, the survey included: it has run by now in every role.
    within(SOON, "every role has surveyed", async || (logs().matches("serving /metrics").count() == 4).then_some(()))
        .await;
    for log in roles.iter().map(Part::log) {
        for word in ["denied", "AuthorizationFailed", "not authorized", "refuses the login", "ERROR"] {
            assert!(!log.contains(word), "{word}:\n{log}");
        }
    }
    // And none may do another's.
    let as_reader = format!("postgres://freshet_reader:{}@localhost:{port}/freshet_data", password("reader"));
    let as_metrics = as_reader.replace("reader", "metrics");
    for (url, sql) in [
        (&as_reader, "DELETE FROM health_data"),
        (&as_reader, "UPDATE pipeline.bookmarks SET next_offset = 0"),
        (&as_metrics, "INSERT INTO locations SELECT * FROM locations"),
        (&as_metrics, "CREATE TABLE public.mine (id int)"),
    ] {
        use sqlx::Connection;
        let mut connection = sqlx::PgConnection::connect(url).await.expect("connect");
        let view = "SELECT count(*) FROM metrics.window_metrics";
        sqlx::raw_sql(view).execute(&mut connection).await.expect("whoever reads tables reads the outputs' views");
        let refused = sqlx::raw_sql(sql).execute(&mut connection).await.expect_err(sql).to_string();
        assert!(refused.contains("permission denied"), "{sql}: {refused}");
    }
    let (made, said) =
        as_users("process", "owner").set("kafka.topic_prefix", "other.").run(&folder.0, &["topics", "create"]);
    assert!(!made && said.contains("uthoriz"), "{said}");
    drop(roles);
    stack.stop().await.expect("stop");
}
