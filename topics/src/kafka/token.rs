//! Where the tokens of OAUTHBEARER come from, apart from librdkafka's own OIDC: a file that another process renews, or
//! AWS credentials.

use std::fs;
use std::io;
use std::sync::mpsc;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use aws_config::BehaviorVersion;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use rdkafka::client::OAuthToken;
use serde::Deserialize;
use tokio::runtime::{Builder, Runtime};

use super::KafkaSettings;
use super::msk;
use crate::causes::in_one_line;

/// The credential chain may query a metadata service or STS; librdkafka asks again 10 s after a failure.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(10);

/// A signed token is reused while this much of its 15 minutes is left: short-lived clients start every few seconds, and
/// the credential chain asks its services each time.
const REUSED_WHILE_LEFT: Duration = Duration::from_secs(600);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("read kafka.oauth_token_file {0}: {1}")]
    File(String, io::Error),
    #[error("kafka.oauth_token_file {0} does not hold a JWT with an expiry")]
    NoToken(String),
    #[error("no AWS region is known: set kafka.aws_region")]
    NoRegion,
    #[error("the AWS credential chain has no credentials: {0}")]
    Credentials(String),
    #[error("sign the token: {0}")]
    Sign(String),
    #[error("the AWS credential chain does not answer within {0:?}")]
    Late(Duration),
    #[error("start the runtime for AWS credentials: {0}")]
    Runtime(&'static io::Error),
}

/// A source of tokens.
#[derive(Clone)]
pub(super) enum Tokens {
    /// A file.
    File(Arc<str>),
    /// Signed for this region, or, if it is empty, for that of the environment.
    Msk { region: Arc<str> },
}

impl Tokens {
    /// The source that the settings name; `None` if they name no source, or librdkafka's own.
    pub(super) fn of(settings: &KafkaSettings) -> Option<Tokens> {
        if settings.uses_msk_iam() {
            return Some(Tokens::Msk { region: settings.aws_region.as_str().into() });
        }
        let file = settings.oauth_token_file.as_str();
        (!file.is_empty()).then(|| Tokens::File(file.into()))
    }

    /// A token that is valid for some time from now. Blocks.
    pub(super) fn fresh(&self) -> Result<OAuthToken, TokenError> {
        match self {
            Tokens::File(path) => {
                let text = fs::read_to_string(&**path).map_err(|error| TokenError::File(path.to_string(), error))?;
                of_jwt(text.trim()).ok_or_else(|| TokenError::NoToken(path.to_string()))
            }
            Tokens::Msk { region } => of_aws(Arc::clone(region)),
        }
    }
}

/// A token's claims. They are not verified here: the broker does that.
#[derive(Deserialize)]
struct Claims {
    /// Seconds since 1970.
    exp: f64,
    #[serde(default)]
    sub: String,
}

fn of_jwt(token: &str) -> Option<OAuthToken> {
    let claims = token.split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Some(OAuthToken { token: token.to_owned(), principal_name: claims.sub, lifetime_ms: (claims.exp * 1_000.0) as i64 })
}

/// The SDK caches the credentials here between tokens, and renews them. The callers are librdkafka's callbacks on any
/// thread, including those of the process' own runtime.
static RUNTIME: LazyLock<io::Result<Runtime>> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).thread_name("aws-credentials").enable_all().build());

fn of_aws(region: Arc<str>) -> Result<OAuthToken, TokenError> {
    /// The last token, with its region and its expiry in milliseconds.
    static LAST: Mutex<Option<(Arc<str>, String, i64)>> = Mutex::new(None);
    // Held while signing: if several ask at once, one signs for all.
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let reused_until = Utc::now() + REUSED_WHILE_LEFT;
    if let Some((_, token, lifetime_ms)) = last.as_ref().filter(|(of, ..)| *of == region)
        && *lifetime_ms > reused_until.timestamp_millis()
    {
        return Ok(OAuthToken { token: token.clone(), principal_name: String::new(), lifetime_ms: *lifetime_ms });
    }
    let fresh = signed_by_chain(Arc::clone(&region))?;
    *last = Some((region, fresh.token.clone(), fresh.lifetime_ms));
    Ok(fresh)
}

fn signed_by_chain(region: Arc<str>) -> Result<OAuthToken, TokenError> {
    let runtime = RUNTIME.as_ref().map_err(TokenError::Runtime)?;
    let (give, take) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        // Fails only if the caller has given up waiting.
        let _ = give.send(signed(&region).await);
    });
    take.recv_timeout(CREDENTIALS_TIMEOUT).map_err(|_| TokenError::Late(CREDENTIALS_TIMEOUT))?
}

async fn signed(region: &str) -> Result<OAuthToken, TokenError> {
    static SHARED: tokio::sync::OnceCell<aws_config::SdkConfig> = tokio::sync::OnceCell::const_new();
    let shared = SHARED.get_or_init(|| aws_config::defaults(BehaviorVersion::latest()).load()).await;
    let region = match region {
        "" => shared.region().map(ToString::to_string).ok_or(TokenError::NoRegion)?,
        region => region.to_owned(),
    };
    let provider = shared.credentials_provider().ok_or_else(|| TokenError::Credentials("none is set".into()))?;
    let credentials = aws_credential_types::provider::ProvideCredentials::provide_credentials(&provider).await;
    let credentials = credentials.map_err(|error| TokenError::Credentials(in_one_line(&error)))?;
    msk::token(&region, credentials, Utc::now().into()).map_err(TokenError::Sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_a_file_holds_as_long_as_it_says() {
        let jwt = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let token = of_jwt(&jwt(r#"{"sub":"freshet","exp":1764100000}"#)).expect("a token");
        assert_eq!((token.principal_name.as_str(), token.lifetime_ms), ("freshet", 1_764_100_000_000));
        for wrong in ["", "opaque", "a.b.c", &jwt("{}"), &jwt(r#"{"sub":"freshet"}"#)] {
            assert!(of_jwt(wrong).is_none(), "{wrong}");
        }
        let error = Tokens::File("/nowhere/token".into()).fresh().err().expect("no file").to_string();
        assert!(error.contains("/nowhere/token"), "{error}");
    }
}
