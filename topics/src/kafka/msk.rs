//! Tokens that Amazon MSK accepts for a login by IAM: a request for `kafka-cluster:Connect` that AWS credentials have
//! signed ahead, in base64. The format is that of AWS' own libraries,
//! <https://github.com/aws/aws-msk-iam-sasl-signer-go>.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use rdkafka::client::OAuthToken;

/// Lifetime of a token: the libraries' own choice, and MSK's maximum.
const HOLDS_FOR: Duration = Duration::from_secs(900);
/// The service name of MSK's permissions.
const SERVICE: &str = "kafka-cluster";
/// Added after signing; MSK shows it in its logs.
const AGENT: &str = concat!("freshet%2F", env!("CARGO_PKG_VERSION"));

/// A token signed at `now`.
pub(super) fn token(region: &str, credentials: Credentials, now: SystemTime) -> Result<OAuthToken, String> {
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(HOLDS_FOR);
    let identity = credentials.into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| error.to_string())?
        .into();
    let url = format!("https://kafka.{region}.amazonaws.com/?Action=kafka-cluster%3AConnect");
    let mut request = http::Request::get(&url).body(()).map_err(|error| error.to_string())?;
    let signable = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(&[]));
    let (instructions, _) =
        sign(signable.map_err(|error| error.to_string())?, &params).map_err(|error| error.to_string())?.into_parts();
    instructions.apply_to_request_http1x(&mut request);
    Ok(OAuthToken {
        token: URL_SAFE_NO_PAD.encode(format!("{}&User-Agent={AGENT}", request.uri())),
        // MSK takes the identity from the signature.
        principal_name: String::new(),
        lifetime_ms: (DateTime::<Utc>::from(now) + HOLDS_FOR).timestamp_millis(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected signatures were computed by another program from AWS' description of Signature Version 4.
    #[test]
    fn a_token_is_a_presigned_request_for_a_connection() {
        const BEGIN: &str = "https://kafka.eu-west-1.amazonaws.com/?Action=kafka-cluster%3AConnect";
        let cases = [
            (None, "826490ef87fdc258a2b16a330dd0a5e2fbff0c526b889ba00d379ac8d174f440"),
            (Some("session/token+=="), "ecaaa9b765c9886017026e8de7b83207a1c924464170d846dfc60ad13854d624"),
        ];
        let now: SystemTime = "2025-11-25T12:00:00Z".parse::<DateTime<Utc>>().expect("a time").into();
        for (session, signature) in cases {
            let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
            let keys = Credentials::new("AKIDEXAMPLE", secret, session.map(str::to_owned), None, "test");
            let token = token("eu-west-1", keys, now).expect("signed");
            assert_eq!(token.lifetime_ms, 1_764_072_900_000, "a quarter of an hour");
            assert!(!token.token.contains('='), "not padded");
            let url = String::from_utf8(URL_SAFE_NO_PAD.decode(token.token).expect("base64")).expect("text");
            assert!(url.starts_with(BEGIN) && !url.contains(secret), "{url}");
            for part in [
                "X-Amz-Algorithm=AWS4-HMAC-SHA256",
                "X-Amz-Credential=AKIDEXAMPLE%2F20251125%2Feu-west-1%2Fkafka-cluster%2Faws4_request",
                "X-Amz-Date=20251125T120000Z",
                "X-Amz-Expires=900",
                "X-Amz-SignedHeaders=host",
                &format!("X-Amz-Signature={signature}"),
            ] {
                assert!(url.split(['?', '&']).any(|it| it == part), "{part} is not in {url}");
            }
            assert_eq!(url.contains("&X-Amz-Security-Token=session%2Ftoken%2B%3D%3D"), session.is_some(), "{url}");
            assert!(url.ends_with(&format!("&User-Agent={AGENT}")), "{url}");
        }
    }
}
