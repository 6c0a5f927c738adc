//! The configuration of every S3 client of freshet.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::{BeforeTransmitInterceptorContextMut, FinalizerInterceptorContextRef};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    ConfigBag, Credentials, Intercept, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::metrics::{self, ThrottledBy};

/// Whether all versions in the raw bucket are listed, or only the current ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Versions {
    /// If the bucket keeps versions and the account may use `s3:GetBucketVersioning` and `s3:ListBucketVersions`.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: a version that is overwritten between two listings is not found.
    Off,
}

/// Settings of the section `s3`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Settings {
    /// Address of an S3-compatible store, `http://host:port`; empty for AWS itself (or the local stack's own).
    pub endpoint: String,
    /// Region of the buckets; empty: from the environment or the profile.
    pub region: String,
    /// Bucket into which CSV files are dropped.
    pub raw_bucket: String,
    /// Whether versions of the raw bucket that were overwritten before a listing saw them are found. Default auto.
    pub versions: Versions,
    /// Bucket that receives the derived outputs.
    pub processed_bucket: String,
    /// Access key; empty: the AWS default credential chain.
    pub access_key_id: SecretString,
    /// Secret key of the access key; empty like it.
    pub secret_access_key: SecretString,
    /// How written objects are encrypted: s3 (S3's own key) or kms. Empty: as the bucket is configured.
    pub sse: String,
    /// For kms: the key's id or ARN; empty: the account's key for S3.
    pub sse_kms_key_id: String,
}

impl Default for S3Settings {
    fn default() -> Self {
        S3Settings {
            endpoint: String::new(),
            region: String::new(),
            raw_bucket: "freshet-raw".into(),
            versions: Versions::Auto,
            processed_bucket: "freshet-processed".into(),
            access_key_id: SecretString::default(),
            secret_access_key: SecretString::default(),
            sse: String::new(),
            sse_kms_key_id: String::new(),
        }
    }
}

impl S3Settings {
    /// Where the store is, for people.
    pub fn place(&self) -> &str {
        if self.endpoint.is_empty() { "AWS" } else { &self.endpoint }
    }

    /// The first setting that cannot work, and why.
    ///
    /// # Errors
    /// One clear line for the person who wrote it.
    pub fn check(&self) -> Result<(), String> {
        if self.access_key_id.expose_secret().is_empty() != self.secret_access_key.expose_secret().is_empty() {
            return Err("s3.access_key_id and s3.secret_access_key go together: set both or neither".into());
        }
        match (self.sse.as_str(), self.sse_kms_key_id.as_str()) {
            ("" | "s3" | "kms", "") | ("kms", _) => Ok(()),
            ("" | "s3", _) => Err("s3.sse_kms_key_id has no effect without s3.sse = \"kms\"".into()),
            _ => Err("s3.sse must be s3, kms or empty".into()),
        }
    }
}

/// The longest time to connect in one attempt; the SDK tries three times with back-off.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time to the first byte of an answer in one attempt.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time of a whole attempt, including the upload of an 8 MiB part over a slow line.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(120);

/// A client for the configured store. It does not connect until it is used.
///
/// S3-compatible stores are addressed by path, and get checksums only if S3 itself requires them: many refuse the
/// trailing checksums that the SDK sends by default.
pub async fn client(settings: &S3Settings) -> Client {
    metrics::declare();
    let shared = shared(settings, &settings.region).await;
    let mut builder = aws_sdk_s3::config::Builder::from(&shared).interceptor(Counted);
    if !settings.sse.is_empty() {
        builder = builder.interceptor(Encrypted::of(settings));
    }
    if !settings.endpoint.is_empty() {
        builder = builder
            .endpoint_url(&settings.endpoint)
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    Client::from_conf(builder.build())
}

/// Common settings of all clients of the store's account: login, region and timeouts.
pub(crate) async fn shared(settings: &S3Settings, region: &str) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts);
    if !region.is_empty() {
        loader = loader.region(Region::new(region.to_owned()));
    }
    let (key, secret) = (settings.access_key_id.expose_secret(), settings.secret_access_key.expose_secret());
    if !key.is_empty() {
        loader = loader.credentials_provider(Credentials::new(key, secret, None, None, "freshet settings"));
    }
    loader.load().await
}

/// Counts every attempt of every request.
#[derive(Debug)]
struct Counted;

impl Intercept for Counted {
    fn name(&self) -> &'static str {
        "freshet counts"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config.load::<Metadata>().map_or("unknown", Metadata::name);
        let outcome = outcome(context.response().map(|response| response.status().as_u16()));
        metrics::S3_REQUESTS.with_label_values(&[operation, outcome]).inc();
        if outcome == "throttled" {
            metrics::throttled(ThrottledBy::Store);
        }
        Ok(())
    }
}

/// Requests encryption for every object that is written, in one place, so that none is forgotten.
#[derive(Debug)]
struct Encrypted {
    headers: Vec<(&'static str, String)>,
}

/// The operations that create an object. Parts of an upload are encrypted as its start says.
const MAKES_OBJECT: [&str; 3] = ["PutObject", "CopyObject", "CreateMultipartUpload"];

impl Encrypted {
    fn of(settings: &S3Settings) -> Self {
        let algorithm = if settings.sse == "kms" { "aws:kms" } else { "AES256" };
        let mut headers = vec![("x-amz-server-side-encryption", algorithm.to_owned())];
        if !settings.sse_kms_key_id.is_empty() {
            headers.push(("x-amz-server-side-encryption-aws-kms-key-id", settings.sse_kms_key_id.clone()));
        }
        Encrypted { headers }
    }
}

impl Intercept for Encrypted {
    fn name(&self) -> &'static str {
        "freshet encrypts"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config.load::<Metadata>().map_or("", Metadata::name);
        if MAKES_OBJECT.contains(&operation) {
            for (name, value) in &self.headers {
                context.request_mut().headers_mut().insert(*name, value.clone());
            }
        }
        Ok(())
    }
}

/// The outcome of an attempt, from the status of its answer.
///
/// | status | outcome |
/// |---|---|
/// | 2xx, 3xx | ok |
/// | 429, 503 (SlowDown) | throttled |
/// | another 4xx, such as 404 of a deleted object or 412 of a condition | refused |
/// | another 5xx, or no answer | failed |
fn outcome(status: Option<u16>) -> &'static str {
    match status {
        Some(200..=399) => "ok",
        Some(429 | 503) => "throttled",
        Some(400..=499) => "refused",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::ByteStream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_store_without_an_endpoint_is_aws() {
        for (endpoint, place) in [("", "AWS"), ("http://localhost:8333", "http://localhost:8333")] {
            let settings = S3Settings { endpoint: endpoint.into(), ..S3Settings::default() };
            assert_eq!(settings.place(), place);
        }
    }

    /// The headers of the requests that writing and reading send, recorded by a store that accepts everything.
    async fn sent(sse: &str, key: &str) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let settings = S3Settings {
            endpoint: format!("http://{}", listener.local_addr().expect("an address")),
            region: "us-east-1".into(),
            access_key_id: "key".into(),
            secret_access_key: "secret".into(),
            sse: sse.into(),
            sse_kms_key_id: key.into(),
            ..S3Settings::default()
        };
        assert_eq!(settings.check(), Ok(()));
        let client = client(&settings).await;
        let serve = async {
            let mut heads = Vec::new();
            while heads.len() < 4 {
                let (mut stream, _) = listener.accept().await.expect("asked");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a request"));
                }
                heads.push(String::from_utf8(head).expect("text").to_ascii_lowercase());
                let body = match heads.last().is_some_and(|head| head.contains("x-amz-copy-source")) {
                    true => "<CopyObjectResult></CopyObjectResult>",
                    false => "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>",
                };
                let answer =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.expect("answer");
            }
            heads
        };
        let ask = async {
            client.put_object().bucket("b").key("k").body(ByteStream::from_static(b"")).send().await.expect("put");
            client.create_multipart_upload().bucket("b").key("k").send().await.expect("begin");
            client.copy_object().bucket("b").key("k").copy_source("b/c").send().await.expect("copy");
            client.get_object().bucket("b").key("k").send().await.expect("get");
        };
        tokio::join!(serve, ask).0
    }

    #[tokio::test]
    async fn what_is_written_is_encrypted_as_wanted_and_signed_so() {
        const ARN: &str = "arn:aws:kms:eu-west-1:1:key/k";
        for (sse, key, algorithm) in
            [("s3", "", Some("aes256")), ("kms", "", Some("aws:kms")), ("kms", ARN, Some("aws:kms")), ("", "", None)]
        {
            for (at, head) in sent(sse, key).await.into_iter().enumerate() {
                let lines: Vec<&str> =
                    head.lines().filter(|it| it.starts_with("x-amz-server-side-encryption")).collect();
                let mut expected = Vec::new();
                if let Some(algorithm) = algorithm.filter(|_| at < 3) {
                    expected.push(format!("x-amz-server-side-encryption: {algorithm}"));
                    assert!(head.contains(";x-amz-server-side-encryption"), "not signed: {head}");
                    if !key.is_empty() {
                        expected.push(format!("x-amz-server-side-encryption-aws-kms-key-id: {key}"));
                    }
                }
                assert_eq!(lines, expected, "{head}");
            }
        }
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        type Change = fn(&mut S3Settings);
        let cases: [(Change, &str); 3] = [
            (|it| it.sse = "aes".into(), "s3.sse must be"),
            (|it| it.sse_kms_key_id = "k".into(), "s3.sse_kms_key_id has no effect"),
            (|it| it.access_key_id = "k".into(), "s3.access_key_id and s3.secret_access_key"),
        ];
        for (change, expected) in cases {
            let mut settings = S3Settings::default();
            change(&mut settings);
            assert!(settings.check().expect_err(expected).starts_with(expected));
        }
    }

    #[test]
    fn an_attempt_counts_by_what_became_of_it() {
        let cases = [
            (Some(200), "ok"),
            (Some(304), "ok"),
            (Some(404), "refused"),
            (Some(412), "refused"),
            (Some(429), "throttled"),
            (Some(503), "throttled"),
            (Some(500), "failed"),
            (None, "failed"),
        ];
        for (status, expected) in cases {
            assert_eq!(outcome(status), expected, "{status:?}");
        }
    }
}
