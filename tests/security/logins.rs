//! Kafka's logins: every mechanism lets the right user in, and where one does not, it is said what to do.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use freshet_topics::DOMAINS;
use freshet_topics::catalog;
use freshet_topics::kafka::KafkaSettings;
use freshet_topics::log::LogReader;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::broker::{Broker, PLAIN_USER};
use crate::certificates::Authority;
use crate::settings::folder;

const WITHIN: Duration = Duration::from_secs(20);

/// A token that a broker takes which does not check signatures, for a user.
fn unsecured_token(user: &str, seconds: i64) -> String {
    let encode = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let now = chrono::Utc::now().timestamp();
    let claims = serde_json::json!({"sub": user, "iat": now, "exp": now + seconds});
    format!("{}.{}.", encode(serde_json::json!({"alg": "none"})), encode(claims))
}

/// An identity provider that gives out tokens for one client and its secret. Gives its URL.
async fn identity_provider(client: &str, secret: &str, user: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/token", listener.local_addr().expect("an address"));
    let expected = format!("basic {}", STANDARD.encode(format!("{client}:{secret}")));
    let user = user.to_owned();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&request[..read]).into_owned();
            let shown = head
                .lines()
                .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("authorization")));
            let knows = shown.is_some_and(|(_, value)| value.replacen("Basic", "basic", 1) == expected);
            let (status, body) = match knows {
                true => {
                    let token = unsecured_token(&user, 300);
                    ("200 OK", serde_json::json!({"access_token": token, "token_type": "bearer", "expires_in": 300}))
                }
                false => ("401 Unauthorized", serde_json::json!({"error": "invalid_client"})),
            };
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    url
}

/// What a client with these settings is told.
fn ping(settings: &KafkaSettings) -> Result<(), String> {
    settings.check()?;
    let reader = LogReader::new(settings).map_err(|error| error.to_string())?;
    reader.ping(WITHIN).map_err(|error| error.to_string())
}

fn with(settings: &KafkaSettings, change: impl FnOnce(&mut KafkaSettings)) -> KafkaSettings {
    let mut settings = settings.clone();
    change(&mut settings);
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mechanism_lets_the_right_user_in_and_says_what_is_wrong_with_another() {
    let folder = folder("logins");
    let [ours, other, clients] = ["ours", "other", "clients"].map(|name| Authority::new(&folder.0, name));
    let broker = Broker::start(&folder.0, &ours, &clients).await;
    broker.administer(&["scram somebody somebody-password".into()]);
    let file = |authority: &Authority| authority.certificate.display().to_string();

    let scram = with(&KafkaSettings::default(), |it| {
        it.brokers.clone_from(&broker.secured);
        it.security_protocol = "sasl_ssl".into();
        it.ssl_ca_location = file(&ours);
        it.sasl_mechanism = "SCRAM-SHA-512".into();
        (it.sasl_username, it.sasl_password) = ("somebody".into(), "somebody-password".into());
        (it.partitions, it.replication, it.min_insync_replicas) = (1, 1, 1);
    });
    let plain = with(&scram, |it| {
        it.sasl_mechanism = "PLAIN".into();
        (it.sasl_username, it.sasl_password) = (PLAIN_USER.0.into(), PLAIN_USER.1.into());
    });
    let oidc = with(&scram, |it| it.sasl_mechanism = "OAUTHBEARER".into());
    let url = identity_provider("freshet", "client-secret", PLAIN_USER.0).await;
    let oidc = with(&oidc, |it| {
        (it.oauth_token_url, it.oauth_client_id) = (url, "freshet".into());
        it.oauth_client_secret = "client-secret".into();
    });
    let token = folder.0.join("token");
    fs::write(&token, unsecured_token(PLAIN_USER.0, 300)).expect("write a token");
    let by_file = with(&oidc, |it| {
        it.oauth_token_url.clear();
        it.oauth_token_file = token.display().to_string();
    });
    let identity = clients.sign(&["freshet.example"]);
    let mutual = with(&KafkaSettings::default(), |it| {
        it.brokers.clone_from(&broker.mutual);
        it.security_protocol = "ssl".into();
        it.ssl_ca_location = file(&ours);
        it.ssl_certificate_location = identity.certificate.display().to_string();
        it.ssl_key_location = identity.key.display().to_string();
    });
    for (name, settings) in
        [("SCRAM", &scram), ("PLAIN", &plain), ("OIDC", &oidc), ("token file", &by_file), ("certificate", &mutual)]
    {
        let asked = settings.clone();
        let answer = tokio::task::spawn_blocking(move || ping(&asked)).await.expect("asked");
        assert_eq!(answer, Ok(()), "{name}");
    }

    // Every kind of client works by a token of the callback, and by librdkafka's own: admin, producer, consumer.
    for (prefix, settings) in [("file.", &by_file), ("oidc.", &oidc), ("plain.", &plain)] {
        let settings = with(settings, |it| it.topic_prefix = prefix.into());
        let made =
            catalog::ensure(&settings, DOMAINS[0], None).await.unwrap_or_else(|error| panic!("{prefix}: {error}"));
        assert!(made.created && made.state.stream_id().is_some(), "{made:?}");
    }

    let wrong_identity = other.sign(&["freshet.example"]);
    let cases = [
        (with(&scram, |it| it.sasl_password = "wrong-password".into()), "refuses the login"),
        (with(&plain, |it| it.sasl_password = "wrong-password".into()), "refuses the login"),
        (with(&oidc, |it| it.oauth_client_secret = "wrong-password".into()), "no token"),
        (with(&by_file, |it| it.oauth_token_file = "/nowhere/token".into()), "/nowhere/token"),
        (with(&scram, |it| it.ssl_ca_location = file(&other)), "kafka.ssl_ca_location"),
        (with(&scram, |it| it.brokers.clone_from(&broker.misnamed)), "another host name"),
        (with(&scram, |it| it.ssl_ca_location = "/nowhere/ca.pem".into()), "/nowhere/ca.pem"),
        (
            with(&plain, |it| {
                it.security_protocol = "sasl_plaintext".into();
                it.ssl_ca_location.clear();
            }),
            "check kafka.security_protocol",
        ),
        (
            with(&mutual, |it| {
                it.ssl_certificate_location = wrong_identity.certificate.display().to_string();
                it.ssl_key_location = wrong_identity.key.display().to_string();
            }),
            "kafka.ssl_",
        ),
        (with(&scram, |it| it.brokers = "no-such-host.invalid:9092".into()), "kafka.brokers"),
    ];
    for (settings, expected) in cases {
        let (asked, since) = (settings.clone(), Instant::now());
        let told = tokio::task::spawn_blocking(move || ping(&asked)).await.expect("asked").expect_err(expected);
        println!("{:.1} s: {told}", since.elapsed().as_secs_f64());
        assert!(told.contains(expected) && !told.contains('\n'), "{settings:?}: {told}");
        assert!(!told.contains("wrong-password"), "{told}");
        if settings.sasl_password.expose_secret() == "wrong-password" {
            // Whoever makes topics is told the same, and soon.
            let told = catalog::ensure(&settings, DOMAINS[0], None).await.expect_err("refused").to_string();
            assert!(told.contains(expected), "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lives_longer_than_its_token_gets_the_next_one() {
    /// Long enough for both to be let in by it on a busy machine.
    const TOKEN_SECONDS: i64 = 25;
    let folder = folder("renewed");
    let [ours, clients] = ["ours", "clients"].map(|name| Authority::new(&folder.0, name));
    let broker = Broker::start(&folder.0, &ours, &clients).await;
    let [renewed, stale] = ["renewed", "stale"].map(|name| folder.0.join(name));
    for token in [&renewed, &stale] {
        fs::write(token, unsecured_token(PLAIN_USER.0, TOKEN_SECONDS)).expect("write a token");
    }
    let ends = Instant::now() + Duration::from_secs(TOKEN_SECONDS as u64 + 1);
    let with_token = |token: &Path| KafkaSettings {
        brokers: broker.secured.clone(),
        security_protocol: "sasl_ssl".into(),
        sasl_mechanism: "OAUTHBEARER".into(),
        ssl_ca_location: ours.certificate.display().to_string(),
        oauth_token_file: token.display().to_string(),
        ..KafkaSettings::default()
    };
    let settings = [&renewed, &stale].map(|token| with_token(token));
    let asked = tokio::task::spawn_blocking(move || {
        let readers = settings.map(|settings| LogReader::new(&settings).expect("a client"));
        for reader in &readers {
            reader.ping(WITHIN).expect("let in");
        }
        fs::write(&renewed, unsecured_token(PLAIN_USER.0, 600)).expect("write the next token");
        // Asked now and then, as the survey does, until the first token is over, and with it the session.
        while Instant::now() < ends {
            for reader in &readers {
                reader.ends("no-such-topic").ok();
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        readers.map(|reader| reader.ends("no-such-topic").is_ok())
    });
    assert_eq!(asked.await.expect("asked"), [true, false], "the one whose token was renewed is let in, the other not");
}
