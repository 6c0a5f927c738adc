//! Postgres with TLS: whom freshet talks to, and what it says where it does not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use freshet::config::Config;
use freshet::local::{LocalStack, Options};
use freshet::ready::{self, Missing};
use freshet::roles::{Role, Services};
use freshet_sinks::postgres::{PostgresSettings, explain, pool};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::certificates::Authority;
use crate::settings::folder;

/// Makes a local stack's Postgres ask for TLS, with a certificate for `localhost`. Its URL works as before.
pub(crate) async fn secure(url: &str, authority: &Authority) {
    let mut owner = PgConnection::connect(url).await.expect("connect");
    let data: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut owner).await.expect("its folder");
    let data = Path::new(&data);
    let identity = authority.sign(&["localhost"]);
    // It takes a key only of its own user or of root, whom nobody else can read it from.
    let user = fs::metadata(data).expect("its folder");
    for (from, to) in [(&identity.certificate, "server.crt"), (&identity.key, "server.key")] {
        let to = data.join(to);
        fs::copy(from, &to).expect("copy a certificate");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("close it");
        std::os::unix::fs::chown(&to, Some(user.uid()), Some(user.gid())).expect("give it away");
    }
    let hba = data.join("pg_hba.conf");
    fs::write(&hba, "hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl all all ::1/128 scram-sha-256\n")
        .expect("write");
    for sql in ["ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"] {
        sqlx::raw_sql(sql).execute(&mut owner).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    // The postmaster rereads it when it gets to it: a connection without TLS is let in until then.
    let plain = format!("{url}?sslmode=disable");
    crate::settings::within(crate::settings::SOON, "it asks for TLS", async || {
        PgConnection::connect(&plain).await.is_err().then_some(())
    })
    .await;
}

/// Runs SQL as the owner of the server.
pub(crate) async fn execute(url: &str, sql: &str) {
    let mut owner = PgConnection::connect(url).await.expect("connect");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_the_server_is_is_checked_as_far_as_sslmode_says_and_told_in_a_line() {
    let folder = folder("postgres");
    let options = Options { data_dir: folder.0.join("data"), kafka: false, postgres: true, s3: false, tell_to: None };
    let stack = LocalStack::start(options, |_| ()).await.expect("start Postgres");
    let url = stack.endpoints().database_url.clone().expect("Postgres runs");
    let (ours, other) = (Authority::new(&folder.0, "ours"), Authority::new(&folder.0, "other"));
    secure(&url, &ours).await;
    let (ca, wrong_ca) = (ours.certificate.display().to_string(), other.certificate.display().to_string());
    let named = url.replace("127.0.0.1", "localhost");
    let login = url.split(['/', '@']).nth(2).expect("a login").to_owned();
    let nobody = named.replace(&login, "freshet:wrong-password");
    let without_login = named.replace(&login, "freshet");
    let password = login.split_once(':').expect("a password").1;

    let cases = [
        (format!("{named}?sslmode=verify-full&sslrootcert={ca}"), "", None),
        (format!("{without_login}?sslmode=verify-full&sslrootcert={ca}"), password, None),
        (format!("{url}?sslmode=verify-ca&sslrootcert={ca}"), "", None),
        (format!("{named}?sslmode=require"), "", None),
        (format!("{named}?sslmode=disable"), "", Some("pg_hba.conf")),
        (format!("{url}?sslmode=verify-full&sslrootcert={ca}"), "", Some("another host name")),
        (format!("{named}?sslmode=verify-full&sslrootcert={wrong_ca}"), "", Some("sslrootcert")),
        (format!("{named}?sslmode=verify-full"), "", Some("sslrootcert")),
        (format!("{named}?sslmode=verify-full&sslrootcert=/nowhere/ca.pem"), "", Some("/nowhere/ca.pem")),
        (format!("{nobody}?sslmode=verify-full&sslrootcert={ca}"), "", Some("check user and password")),
    ];
    for (url, password, expected) in cases {
        let settings =
            PostgresSettings { url: url.as_str().into(), password: password.into(), ..PostgresSettings::default() };
        let connected = match pool(&settings) {
            Ok(pool) => pool.acquire().await.map(|_| ()),
            Err(error) => Err(error),
        };
        match (connected, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(words)) => {
                let told = explain(&error);
                println!("{told}");
                assert!(told.contains(words) && !told.contains('\n'), "{url}: {told}");
                assert!(!told.contains("wrong-password"), "{told}");
            }
            (connected, _) => panic!("{url}: {connected:?}"),
        }
    }
    // A role says the same while it waits.
    let mut config = Config::default();
    config.postgres.url = format!("{named}?sslmode=verify-full&sslrootcert={wrong_ca}").into();
    let services = Services::new(config).await.expect("clients");
    let missing = ready::missing(&services, &[Role::Metrics]).await;
    let told = |one: &&Missing| matches!(one, Missing::Yet(what) if what.contains("sslrootcert"));
    assert_eq!(missing.iter().filter(told).count(), 1, "{missing:?}");
    stack.stop().await.expect("stop");
}
